"""The options as keyword arguments, for a type checker: the fields of :class:`~.model.Settings` without the version."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, TypedDict

from vllm_builder.settings.model import CacheChoice, Device, PinTorch
from vllm_builder.stages.vendor.model import ExternalSource


class Options(TypedDict, total=False):
    """What :func:`vllm_builder.plan` and :func:`vllm_builder.build` take; meanings are those of the settings."""

    device: Device | None
    arch: Sequence[str]
    recipe: Path | str | None
    torch: str
    torch_index: str | None
    pin_torch: PinTorch
    cuda: Path | str
    cuda_home: Path | str | None
    python: Path | str | None
    source: Path | str
    git_url: Path | str
    jobs: int | Literal["auto"]
    nvcc_threads: int
    build_type: Literal["Release", "RelWithDebInfo", "MinSizeRel", "Debug"]
    keep_dead: bool
    lean_headers: bool
    extensions: Sequence[str]
    compiler_cache: CacheChoice
    patches: Sequence[Path | str]
    with_patch: Sequence[str]
    without_patch: Sequence[str]
    parameters: dict[str, str]
    externals: Mapping[str, ExternalSource | str]
    lock_file: Path | str | None
    variables: dict[str, str]
    bundle: Path | str | None
    allow_differences: bool
    workspace: Path | str
    out: Path | str | None
    cache_dir: Path | str | None
    shared_cache: Path | str | None
    offline: bool
    isolate: bool
    refresh: bool
    reuse: bool
    force: bool
    publish: Path | str | None
    channel: Sequence[str]
    variant: str | None
    sign_key: Path | str | None
    builder_id: str | None
    simple_url: str | None
