"""``vllm-builder index`` as it is typed, on an index of toys."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from index_helpers import make_wheel

from vllm_builder.cli import main, screen

Types = Callable[..., tuple[int, str, str]]


@pytest.fixture
def types(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Types:
    """Type a command of ``index``: exit code, standard output, and standard error in one line."""
    monkeypatch.chdir(tmp_path)
    for name in list(os.environ):
        if name.startswith("VLLM_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("VLLM_BUILDER_CACHE_DIR", str(tmp_path / "cache"))

    def run(*arguments: object) -> tuple[int, str, str]:
        screen.use_json(False)
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main(["index", *map(str, arguments)])
        screen.use_json(False)
        said = capsys.readouterr()
        assert isinstance(end.value.code, int)
        return end.value.code, said.out, " ".join(said.err.split())

    return run


@pytest.fixture
def dist(tmp_path: Path) -> Path:
    folder = tmp_path / "dist"
    for version in ("0.9.2", "1.0.dev0", "1.0.dev1"):
        for variant in ("cpu", "cu130"):
            make_wheel(folder, "vllm", f"{version}+{variant}")
    return folder


@pytest.fixture
def index(types: Types, dist: Path) -> Types:
    """As ``types``, with ``--to`` an index that is there."""
    code, _, err = types("publish", *sorted(dist.iterdir()), "--to", "index", "--no-verify", "toys")
    assert code == 0, err
    return lambda *arguments: types(*arguments, "--to", "index")


def versions(index: Types, channel: str) -> set[str]:
    return {
        one["file"]["version"]
        for one in json.loads(index("list", "--channel", channel, "--json")[1])["files"]
    }
