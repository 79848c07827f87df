"""Sources whose files say what cannot be used: the message names the source and the file, never the cache."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest
from cuda_machine import PYPROJECT, SETUP
from cuda_person import Person

from vllm_builder import errors, plan
from vllm_builder.settings import gather

LATIN = "name = 'caf\xe9'\n".encode("latin-1")


def _archive(folder: Path, **files: bytes) -> Path:
    """A release's sdist, of which files are replaced; names are written with ``__`` for ``/`` and ``_`` for a dot."""
    found = {
        "setup.py": SETUP.encode(),
        "pyproject.toml": (PYPROJECT % "2.7.0").encode(),
        "PKG-INFO": b"Name: vllm\nVersion: 0.9.2\n",
        "requirements/cpu.txt": b"torch==2.7.0\n",
        "CMakeLists.txt": b"",
        **files,
    }
    path = folder / "mine.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name, data in found.items():
            info = tarfile.TarInfo(f"vllm-0.9.2/{name}")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


@pytest.mark.parametrize(
    ("name", "data", "says"),
    [
        ("pyproject.toml", LATIN, "not UTF-8"),
        ("pyproject.toml", b"this is no TOML", "not valid TOML"),
        ("pyproject.toml", b"[[project]]\nname = 'x'\n", "[project] is not a table"),
        ("pyproject.toml", b"project = 'x'\n", "[project] is not a table"),
        ("pyproject.toml", b"[project]\nrequires-python = 'banana'\n", "requires-python"),
        ("pyproject.toml", b"[project]\nrequires-python = 3\n", "requires-python"),
        ("pyproject.toml", b"[[build-system]]\nrequires = []\n", "[build-system] is not a table"),
        ("pyproject.toml", b"[build-system]\nrequires = 'setuptools'\n", "not a list"),
        ("pyproject.toml", b"[build-system]\nrequires = ['setuptools', 1]\n", "not a list"),
        ("pyproject.toml", b"[build-system]\nrequires = ['setup tools ???']\n", "setup tools ???"),
        ("pyproject.toml", b"[project]\nname = 'vllm'\n", "no [build-system] requires"),
        ("setup.py", LATIN, "not UTF-8"),
        ("setup.py", b"def (:\n", "setup.py"),
        ("setup.py", b"setup(python_requires='banana')\n", "python_requires"),
    ],
)
def test_a_tree_that_cannot_be_read(person: Person, name: str, data: bytes, says: str) -> None:
    files = {name: data}
    if name == "setup.py":
        files["pyproject.toml"] = b"[build-system]\nrequires = ['setuptools']\n"
    path = _archive(person.machine.folder, **files)
    cause = person.fails(errors.SourceError, "plan", "--device", "cpu", "--source", str(path))
    assert says in cause
    assert str(path) in cause
    assert str(person.machine.folder / "cache") not in cause


def test_a_requirement_file_that_includes_itself(person: Person) -> None:
    person.machine.toolkit("12.6")
    cycle = {
        "requirements/cuda.txt": b"-r more.txt\n",
        "requirements/more.txt": b"-r ../requirements/cuda.txt\n",
    }
    path = _archive(person.machine.folder, **cycle)
    said = person.fails(errors.SourceError, "plan", "--arch", "sm_90", "--source", str(path))
    assert "requirements/cuda.txt -> requirements/more.txt -> requirements/cuda.txt" in said


@pytest.mark.parametrize("version", ["9" * 5000, "0." + "1" * 5000, "banana", "a b"])
def test_a_version_that_is_none_with_a_path(person: Person, version: str) -> None:
    path = _archive(person.machine.folder)
    error = errors.SettingsError if len(version) > 255 else errors.ContradictionError
    code, out, err = person.types(
        "plan", "--device", "cpu", "--source", str(path), version=version, release=False
    )
    assert code == error.exit_code, out + err
    assert "Traceback" not in err
    assert "next:" in err


@pytest.mark.parametrize("version", ["", "  ", "9" * 5000, "v0.9.2\n"])
def test_a_version_that_is_no_name(version: str) -> None:
    if version.strip() == "v0.9.2":
        assert gather({"version": version}, {}).resolve().settings.version == "v0.9.2"
        return
    with pytest.raises(errors.SettingsError, match="version"):
        gather({"version": version}, {}).resolve()


@pytest.mark.parametrize("version", [None, 0.9, Path("v0.9.2")])
def test_the_api_builds_nothing_that_was_not_named(version: object, tmp_path: Path) -> None:
    with pytest.raises(errors.SettingsError, match=r"The version is|Which release"):
        plan(version, environ={}, cache_dir=tmp_path)  # type: ignore[arg-type]
    with pytest.raises(errors.SettingsError):
        plan("", environ={}, cache_dir=tmp_path)


def test_paths_as_objects(person: Person) -> None:
    import sys

    person.machine.toolkit("12.6")
    (person.machine.folder / "mine.toml").write_text('build-type = "Debug"\n')
    made = person.machine.plan(
        source=person.machine.release("0.9.2"),
        python=Path(sys.executable),
        recipe=person.machine.folder / "mine.toml",
        cuda=person.machine.folder / "cuda-12.6",
        arch=("sm_90",),
        device="cuda",
    )
    assert made.compile.build_type == "Debug"
    assert made.toolkit is not None
    assert made.toolkit.version == "12.6"


def test_a_path_object_is_a_path_and_never_a_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(errors.SourceError, match="does not exist"):
        plan("0.9.2", environ={}, source=Path("git"), device="cpu", cache_dir=tmp_path / "cache")


# -- settings ------------------------------------------------------------------------------------------
@pytest.mark.parametrize("releases", ["[1]", "3", "true", '["<0.17"]'])
def test_releases_of_a_when_table_that_are_no_text(releases: str, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(f'[[when]]\nreleases = {releases}\ntorch = "auto"\n')
    with pytest.raises(errors.RecipeError, match="PEP 440"):
        gather({"recipe": str(tmp_path / "mine.toml")}, {}, cwd=tmp_path)


@pytest.mark.parametrize("kind", ["folder", "broken link"])
def test_a_settings_file_that_is_none_is_not_passed_over(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "vllm-builder.toml"
    if kind == "folder":
        path.mkdir()
    else:
        path.symlink_to("nowhere")
    with pytest.raises(errors.SettingsError, match=r"vllm-builder\.toml"):
        gather({}, {}, cwd=tmp_path)


def test_names_with_a_blank_in_a_variable(tmp_path: Path) -> None:
    environ = {"VLLM_BUILDER_WITH_PATCH": "my set; other,  third one ", "VLLM_BUILDER_ARCH": "9.0 10.0;12.0"}
    found = gather({}, environ, cwd=tmp_path).resolve().settings
    assert found.with_patch == ("my set", "other", "third one")
    assert found.arch == ("9.0", "10.0", "12.0")
