"""Commands about data, the store and trees: what they take and what they leave alone."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from vllm_builder import errors
from vllm_builder.cli import main, screen


@pytest.fixture
def types(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path):  # type: ignore[no-untyped-def]
    monkeypatch.chdir(tmp_path)
    for name in list(os.environ):
        if name.startswith("VLLM_"):
            monkeypatch.delenv(name)

    def run(*arguments: str) -> tuple[int, str, str]:
        screen.use_json(False)
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main(list(arguments))
        screen.use_json(False)
        said = capsys.readouterr()
        assert isinstance(end.value.code, int)
        return end.value.code, said.out, said.err

    return run


def test_a_patch_set_as_json(types) -> None:  # type: ignore[no-untyped-def]
    code, out, _ = types("patches", "show", "torch-pins", "--json")
    assert code == 0
    found = json.loads(out)
    assert found["name"] == "torch-pins"
    assert [operation["action"] for operation in found["operation"]]
    assert found["path"].endswith("torch-pins.toml")
    code, out, _ = types("patches", "show", "torch-pin", "--json")
    assert code == errors.PatchSetError.exit_code
    assert "did you mean torch-pins" in json.loads(out)["what"]


@pytest.mark.parametrize("name", ["../patches/torch-pins", "", "/etc/passwd"])
def test_a_patch_set_is_shown_by_name_alone(types, name: str) -> None:  # type: ignore[no-untyped-def]
    assert types("patches", "show", name)[0] == errors.PatchSetError.exit_code


def test_a_fact_that_no_patch_set_asks_for(types, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "pyproject.toml").write_text("[project]\nname = 'vllm'\n")
    code, _, err = types("patch", "tree", "--release", "0.9.2", "--fact", "setuptool=79.0.1")
    assert code == errors.SettingsError.exit_code
    assert "did you mean setuptools" in " ".join(err.split())
    sets = tmp_path / "sets"
    sets.mkdir()
    (sets / "mine.toml").write_text(
        'name = "mine"\ndescription = "x"\n[[operation]]\naction = "set_toml_key"\nfile = "pyproject.toml"\n'
        'key = "a.b"\nvalue = 1\nwhen = { moon = "full" }\n'
    )
    others = [
        word
        for name in ("existing-torch-script", "torch-pins", "cuda13")
        for word in ("--without-patch", name)
    ]
    arguments = ["patch", "tree", "--release", "0.9.2", "--patches", "sets", "--fact", "moon=full", *others]
    code, _, err = types(*arguments)
    assert code == 0, err
    assert "b = 1" in (tree / "pyproject.toml").read_text()
