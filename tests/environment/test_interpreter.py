"""Finding a Python: real interpreters, real virtual environments."""

from __future__ import annotations

import os
import sys
import venv
from pathlib import Path

import pytest

from vllm_builder.errors import ContradictionError, PythonNotFound
from vllm_builder.memo import Memo
from vllm_builder.stages.environment.interpreter import find_interpreter, probe

RUNNING = ".".join(map(str, sys.version_info[:3]))


@pytest.fixture
def memo(tmp_path: Path) -> Memo:
    return Memo(tmp_path / "memo", "test")


def test_probe_tells_version_tag_and_site_packages(memo: Memo) -> None:
    found = probe(sys.executable, memo)
    assert found.version == RUNNING
    assert found.tag == f"cp{sys.version_info[0]}{sys.version_info[1]}"
    assert any(p.endswith("site-packages") for p in found.site_packages)
    assert probe(sys.executable, memo) == found


def test_a_folder_of_an_environment_is_its_python(tmp_path: Path, memo: Memo) -> None:
    venv.create(tmp_path / "env", with_pip=False)
    assert probe(str(tmp_path / "env"), memo).prefix == str(tmp_path / "env")


def test_an_environment_that_was_made_anew_at_the_same_place_is_asked_anew(
    tmp_path: Path, memo: Memo
) -> None:
    venv.create(tmp_path / "env", with_pip=False, symlinks=True)
    before = probe(str(tmp_path / "env"), memo)
    venv.create(tmp_path / "env", with_pip=False, symlinks=True, clear=True, system_site_packages=True)
    after = probe(str(tmp_path / "env"), memo)
    assert set(before.site_packages) < set(after.site_packages)


def test_a_remembered_path_that_has_become_another_python_is_not_taken(tmp_path: Path, memo: Memo) -> None:
    """``--python 3.11`` once found a Python that has since been replaced by another version."""
    wanted = ".".join(map(str, sys.version_info[:2]))
    environ = {"PATH": os.environ["PATH"]}
    other = tmp_path / "python"
    other.write_text(OTHER_PYTHON)
    other.chmod(0o755)
    memo.put(["uv python find", wanted, environ["PATH"]], str(other))
    found, _ = find_interpreter(wanted, ">=3.8", environ=environ, memo=memo)
    assert found.version.startswith(f"{wanted}.")


OTHER_PYTHON = """#!/bin/sh
echo '{"implementation": "cpython", "version": "3.7.1", "tag": "cp37", "base": "/usr", "prefix": "/usr",
       "base_prefix": "/usr", "site_packages": []}'
"""


@pytest.mark.parametrize("text", ["#!/bin/sh\nexit 3\n", "#!/bin/sh\necho hello\n", "garbage"])
def test_what_does_not_run_is_no_python(tmp_path: Path, memo: Memo, text: str) -> None:
    fake = tmp_path / "python"
    fake.write_text(text)
    fake.chmod(0o755)
    with pytest.raises(PythonNotFound):
        probe(str(fake), memo)


def test_a_path_that_is_not_there(memo: Memo) -> None:
    with pytest.raises(PythonNotFound, match="/nowhere/python"):
        find_interpreter("/nowhere/python", ">=3.8", environ={}, memo=memo)


def test_a_named_python_that_the_release_does_not_accept(memo: Memo) -> None:
    with pytest.raises(ContradictionError) as caught:
        find_interpreter(sys.executable, "<3", environ={}, memo=memo)
    assert RUNNING in caught.value.what
    assert "Requires-Python <3" in caught.value.why


def test_the_active_environment_comes_first(tmp_path: Path, memo: Memo) -> None:
    venv.create(tmp_path / "env", with_pip=False)
    found, reason = find_interpreter(None, ">=3.8", environ={"VIRTUAL_ENV": str(tmp_path / "env")}, memo=memo)
    assert found.prefix == str(tmp_path / "env")
    assert "active environment" in reason


def test_without_one_the_running_python_is_taken(memo: Memo) -> None:
    found, reason = find_interpreter(None, ">=3.8", environ={}, memo=memo)
    assert found.version == RUNNING
    assert "runs vllm-builder" in reason


def test_a_version_that_nobody_has(memo: Memo) -> None:
    with pytest.raises(PythonNotFound, match=r"3\.99"):
        find_interpreter("3.99", ">=3.8", environ={"PATH": "/nonexistent"}, memo=memo, offline=True)


def test_the_environment_does_not_depend_on_the_virtual_environment_that_the_python_was_reached_through(
    tmp_path: Path, memo: Memo
) -> None:
    from vllm_builder.indexes import Indexes
    from vllm_builder.stages.environment.install import environment_key
    from vllm_builder.stages.environment.model import EnvironmentSpec

    keys = set()
    for name in ("one", "two"):
        venv.create(tmp_path / name, with_pip=False)
        found = probe(str(tmp_path / name), memo)
        spec = EnvironmentSpec(python=found, lock=("wheel==1",), indexes=Indexes(index_url=""))
        keys.add(environment_key(spec))
    assert len(keys) == 1
