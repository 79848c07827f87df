"""The one settings model.

The description of each field is its help text on the command line and in the documentation.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from vllm_builder.model import Model
from vllm_builder.shared.address import parse as parse_shared_cache
from vllm_builder.stages.vendor.model import ExternalSource

Device = Literal["cuda", "cpu", "empty"]
CacheChoice = Literal["auto", "ccache", "split", "sccache", "off"]
PinTorch = Literal["none", "minor", "exact"]


def _jobs(value: object) -> object:
    text = str(value).strip().lower()
    if text == "auto":
        return text
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise ValueError("It is neither auto nor a whole number of 1 or more")
    return int(text)


def _names(value: object) -> object:
    """Names, also several in one text with commas between."""
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list | tuple) or not all(isinstance(text, str) for text in texts):
        return value
    found = [name.strip().rpartition(".")[2] for text in texts for name in text.split(",")]
    if not all(found):
        raise ValueError("It is not a list of names such as _C,_moe_C")
    return tuple(dict.fromkeys(found))


Jobs = Annotated[Literal["auto"] | int, BeforeValidator(_jobs)]


_LONGEST_VERSION = 255
"""Characters; git takes no longer name of a branch in most file systems."""
_VERSION = re.compile(r"\d+(\.\d+)*((a|b|rc)\d+)?(\.post\d+)?(\.dev\d+)?(\+[A-Za-z0-9.]+)?")
PYTORCH_INDEX = re.compile(r"cpu|cu\d{3}|cu9\d|rocm[\d.]+|xpu")
"""The names that uv knows PyTorch's own indexes by."""


def _torch(value: object) -> object:
    if value not in ("auto", "existing") and not _VERSION.fullmatch(str(value)):
        raise ValueError("It is neither existing, auto nor a version such as 2.13.0")
    return value


def _torch_index(value: object) -> object:
    if (
        value is not None
        and not PYTORCH_INDEX.fullmatch(str(value))
        and not re.match(r"[a-z+]+://|/", str(value))
    ):
        raise ValueError("It is neither a URL nor the name of one of PyTorch's indexes")
    return value


def _cuda(value: object) -> object:
    if value not in ("auto", "pypi", "system") and "/" not in str(value):
        raise ValueError("It is neither auto, pypi, system nor a path (./folder)")
    return str(value)


def _version_word(value: object) -> object:
    text = value.strip() if isinstance(value, str) else ""
    if not text or not text.isprintable() or len(text) > _LONGEST_VERSION:
        raise ValueError("It is no name of a release, tag, branch or commit")
    return text


def _address(value: object) -> object:
    # A password in an address would be seen in lists of processes, in logs and in plans.
    if isinstance(value, str) and "://" in value and "@" in value:
        raise ValueError(
            "It holds a user name or a password, which belong into the environment, netrc or a keyring"
        )
    return value


def _shared_cache(value: object) -> object:
    if value is not None:
        parse_shared_cache(str(value))
    return value


class Settings(Model):
    """Everything that can be chosen. Every field but ``version`` has a default."""

    version: Annotated[str, BeforeValidator(_version_word)] = Field(
        "latest",
        description="Release to build: v0.9.2, 0.9.0.1, 0.6.4.post1, latest; with git any tag, branch or commit",
    )
    device: Device | None = Field(
        None, description="What to build for; without it an --arch means cuda, else the machine decides"
    )
    arch: tuple[str, ...] = Field(
        (), description="GPU architecture: sm_100, 10.0, 100, sm_90a, native (may be repeated)"
    )
    recipe: str | None = Field(
        None, description="Recipe by name or file; 'none' for none (default: the one named as the device)"
    )
    torch: Annotated[str, BeforeValidator(_torch)] = Field(
        "auto",
        description="existing: the one in --python's environment; auto: that, else the release's pin, else the "
        "newest that fits; or a version",
    )
    torch_index: Annotated[str | None, BeforeValidator(_torch_index)] = Field(
        None, description="Index for torch alone: a URL, or cu129, cpu, ... for PyTorch's own"
    )
    pin_torch: PinTorch = Field(
        "minor",
        description="Torch in the wheel's requirements: minor (~=2.9.1 where it was compiled against 2.9.1; exact for a "
        "pre-release), exact, or none",
    )
    cuda: Annotated[str, BeforeValidator(_cuda)] = Field(
        "auto",
        description="CUDA toolkit: auto (one of this machine, else from PyPI), system, pypi, or the PATH of one",
    )
    cuda_home: Path | None = Field(
        None, description="Folder of the CUDA toolkit to use (default: CUDA_HOME, else what --cuda finds)"
    )
    python: str | None = Field(
        None,
        description="Interpreter to build with and for: a path or X.Y (default: the active environment's)",
    )
    source: str = Field(
        "auto", description="git, pypi, auto (git, else the sdist), or the PATH of a tree or archive"
    )
    git_url: str = Field(
        "https://github.com/vllm-project/vllm.git", description="Repository to clone, a URL or a local mirror"
    )
    jobs: Jobs = Field("auto", description="Compilers at once, or auto (cores and memory decide)")
    nvcc_threads: int = Field(1, ge=1, description="Threads of each nvcc")
    build_type: Literal["Release", "RelWithDebInfo", "MinSizeRel", "Debug"] = Field(
        "Release", description="CMake build type"
    )
    keep_dead: bool = Field(
        False,
        description="Also compile extensions that can run on none of the architectures, as upstream does",
    )
    lean_headers: bool = Field(
        True,
        description="Compile against a short torch/all.h (patch set lean-headers), or against torch's own as upstream does",
    )
    extensions: Annotated[tuple[str, ...], BeforeValidator(_names)] = Field(
        (), description="Compile only these extension modules (_C,_moe_C), for development; never stored"
    )
    compiler_cache: CacheChoice = Field(
        "auto",
        description="Compiler cache (split: ccache, and behind it each pass of nvcc; auto: split for CUDA, else ccache)",
    )
    patches: tuple[Path, ...] = Field(
        (),
        description="Folder of further patch sets; one of a shipped set's name replaces it (may be repeated)",
    )
    with_patch: tuple[str, ...] = Field((), description="Also apply this opt-in patch set (may be repeated)")
    without_patch: tuple[str, ...] = Field((), description="Leave this patch set out (may be repeated)")
    parameters: dict[str, str] = Field({}, description="Values that patch sets ask for, as NAME=VALUE")
    externals: dict[str, ExternalSource] = Field(
        {},
        description="Where an external source comes from, as NAME=REPOSITORY; the settings file also takes "
        "path and archive in [externals.NAME] (may be repeated)",
    )
    lock_file: Path | None = Field(
        None,
        description="Lock file of the external sources (default: locks/vllm-VERSION.toml, else the shipped one, else "
        "their repositories are asked)",
    )
    variables: dict[str, str] = Field(
        {}, description="Environment variables for the release's setup.py, as NAME=VALUE"
    )
    bundle: Path | None = Field(
        None,
        description="Take everything from this bundle, which decides VERSION and what is built; no network",
    )
    allow_differences: bool = Field(
        False,
        description="With --bundle: go on where this machine makes another plan of it, and say what differs",
    )
    workspace: Path = Field(Path("build"), description="Folder of trees, logs and output")
    out: Path | None = Field(None, description="Where the wheel is put (default: WORKSPACE/wheels)")
    cache_dir: Path | None = Field(
        None,
        description="Folder of downloads, environments, compiler cache and store (default: the user cache)",
    )
    shared_cache: Annotated[str | None, BeforeValidator(_shared_cache)] = Field(
        None,
        repr=False,
        description="Cache that several machines share: a folder, http(s)://HOST/PATH, redis://HOST/DB, "
        "s3://BUCKET/PREFIX",
    )
    offline: bool = Field(False, description="Touch no network; name everything that is missing")
    isolate: bool = Field(
        False, description="Configure and compile with no network at all (an error where the kernel refuses)"
    )
    refresh: bool = Field(False, description="Ask the network again where an answer is remembered")
    reuse: bool = Field(
        True,
        description="Take what is compiled from the store where its inputs are the same (--no-reuse compiles)",
    )
    force: bool = Field(False, description="Build even when the wheel is in the store")
    publish: Annotated[str | None, BeforeValidator(_address)] = Field(
        None,
        description="Publish the wheel to this index: a folder, s3://bucket/prefix, or the https:// address of an "
        "upload server",
    )
    channel: tuple[str, ...] = Field(
        (),
        description="With --publish: channel of the index (default: release, nightly for a pre-release; may be repeated)",
    )
    variant: str | None = Field(
        None, description="With --publish: variant of the index (default: cu130, cpu, ... as it was built)"
    )
    sign_key: Path | None = Field(
        None,
        description="With --publish: private key (PEM) that signs the wheel's provenance; opened with "
        "VLLM_BUILDER_SIGN_PASSPHRASE",
    )
    builder_id: str | None = Field(
        None,
        description="With --publish: URI of who builds, for the provenance (default: vllm-builder's own)",
    )
    simple_url: Annotated[str | None, BeforeValidator(_address)] = Field(
        None,
        description="With --publish to a server: where its pages are (default: where known servers have them)",
    )


PUBLISHING = frozenset({"publish", "channel", "variant", "sign_key", "builder_id", "simple_url"})
"""Fields that say what becomes of a finished wheel; a recipe, which is an input of the wheel, cannot set them."""
HELD_BY_FILES = (
    frozenset(Settings.model_fields)
    - {*("version", "recipe", "force", "refresh", "bundle", "allow_differences", "shared_cache")}
    - PUBLISHING
)
"""Fields that recipes and settings files may set (a settings file may also set ``recipe``, ``shared_cache`` and
:data:`PUBLISHING`)."""
