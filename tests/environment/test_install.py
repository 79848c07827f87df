"""Build environments: made once, reused while they are whole, and made anew when they are not."""

from __future__ import annotations

import base64
import hashlib
import os
import shutil
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vllm_builder.errors import InstallError
from vllm_builder.events import Event, Measured, Note
from vllm_builder.indexes import Indexes
from vllm_builder.memo import Memo
from vllm_builder.stages.environment import Environment, prepare, probe
from vllm_builder.stages.environment.model import EnvironmentSpec


def toy_wheel(folder: Path, name: str) -> None:
    files = {
        f"{name}/__init__.py": f"name = {name!r}\n",
        f"{name}/deep/data.h": "int data();\n",
        f"{name}-1.0.dist-info/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n",
        f"{name}-1.0.dist-info/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    lines = []
    with zipfile.ZipFile(folder / f"{name}-1.0-py3-none-any.whl", "w") as wheel:
        for path, text in files.items():
            wheel.writestr(path, text)
            hashed = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
            lines.append(f"{path},sha256={hashed},{len(text)}\n")
        wheel.writestr(f"{name}-1.0.dist-info/RECORD", "".join(lines) + f"{name}-1.0.dist-info/RECORD,,\n")


class Place:
    """A folder of environments, and an index of two packages."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "links").mkdir()
        for name in ("one", "two"):
            toy_wheel(folder / "links", name)
        self.spec = EnvironmentSpec(
            python=probe(sys.executable, Memo(folder / "memo", "t")),
            lock=("one==1.0", "two==1.0"),
            indexes=Indexes(index_url="", no_index=True, find_links=(str(folder / "links"),)),
        )
        self.events: list[Event] = []

    def prepare(self, *, force: bool = False) -> Environment:
        self.events.clear()
        # Copies, so that what the tests break is not the package cache's own file.
        environ = {**os.environ, "UV_CACHE_DIR": str(self.folder / "uv"), "UV_LINK_MODE": "copy"}
        return prepare(
            self.spec, self.folder / "environments", environ=environ, force=force, emit=self.events.append
        )

    @property
    def said(self) -> str:
        return " ".join(e.message for e in self.events if isinstance(e, Note) and e.level != "debug")

    @property
    def reused(self) -> list[dict[str, Any]]:
        """What the journal of a build is told of it."""
        return [e.values for e in self.events if isinstance(e, Measured) and e.what == "reused"]

    @staticmethod
    def site(environment: Environment) -> Path:
        return next((environment.bin.parent / "lib").glob("python*/site-packages"))


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def mark(environment: Environment) -> Path:
    """A file that is gone when the environment was made anew."""
    path = environment.bin.parent / "mark"
    path.touch()
    return path


def test_an_environment_is_made_once(place: Place) -> None:
    first = place.prepare()
    assert first.packages == {"one": "1.0", "two": "1.0"}
    assert place.reused == []
    kept = mark(first)
    (place.site(first) / "one/__pycache__").mkdir(exist_ok=True)
    (place.site(first) / "one/__pycache__/x.pyc").touch()
    assert place.prepare() == first
    assert kept.exists()
    assert place.said == ""
    assert place.reused == [{"what": "build environment", "detail": "2 packages"}]


def lose_a_dist_info(site: Path) -> str:
    for file in (site / "one-1.0.dist-info").iterdir():
        file.unlink()
    (site / "one-1.0.dist-info").rmdir()
    return "one-1.0.dist-info"


def lose_a_file(site: Path) -> str:
    (site / "two/deep/data.h").unlink()
    return "two/deep/data.h"


def edit_a_header(site: Path) -> str:
    (site / "two/deep/data.h").write_text("int atad();\n")
    return "two/deep/data.h"


def add_a_package(site: Path) -> str:
    (site / "three-1.0.dist-info").mkdir()
    (site / "three-1.0.dist-info/METADATA").write_text("Name: three\nVersion: 1.0\n")
    return "three-1.0.dist-info"


def add_a_path_file(site: Path) -> str:
    (site / "mine.pth").write_text("/somewhere\n")
    return "mine.pth"


@pytest.mark.parametrize(
    "damage",
    [lose_a_dist_info, lose_a_file, edit_a_header, add_a_package, add_a_path_file],
    ids=lambda f: f.__name__,
)
def test_what_is_not_as_it_was_installed_is_made_anew_and_said(
    place: Place, damage: Callable[[Path], str]
) -> None:
    first = place.prepare()
    gone = mark(first)
    named = damage(place.site(first))
    assert place.prepare() == first
    assert not gone.exists()
    assert named in place.said
    assert (place.site(first) / "two/deep/data.h").read_text() == "int data();\n"
    assert not (place.site(first) / "mine.pth").exists()
    place.prepare()
    assert place.said == ""


@pytest.mark.parametrize("mended", [True, False])
def test_damage_in_the_package_cache_does_not_get_in(
    place: Place, mended: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.prepare()
    (kept,) = (place.folder / "uv").rglob("two/deep/data.h")
    kept.chmod(0o644)
    kept.write_text("int atad();\n")
    for made in (place.folder / "environments").iterdir():
        if made.is_dir():
            shutil.rmtree(made)
    if mended:
        header = place.site(place.prepare()) / "two/deep/data.h"
        assert header.read_text() == "int data();\n"
        assert "two/deep/data.h" in place.said
        return
    # The index gives the same wrong file again.
    monkeypatch.setattr("vllm_builder.stages.environment.install.other_content", lambda _: iter(["two/x.h"]))
    with pytest.raises(InstallError) as caught:
        place.prepare()
    assert "two/x.h" in caught.value.details


@pytest.mark.parametrize("name", ["UV_CONSTRAINT", "UV_OVERRIDE", "UV_EXCLUDE", "UV_REQUIRE_HASHES"])
def test_what_a_lock_has_decided_is_not_decided_again(
    place: Place, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (place.folder / "other.txt").write_text("one==2.0\n" if name != "UV_EXCLUDE" else "one\n")
    value = "1" if name == "UV_REQUIRE_HASHES" else str(place.folder / "other.txt")
    monkeypatch.setenv(name, value)
    assert place.prepare().packages == {"one": "1.0", "two": "1.0"}


def test_force_reads_the_files_themselves(place: Place) -> None:
    first = place.prepare()
    header = place.site(first) / "two/deep/data.h"
    stat = header.stat()
    header.write_text("int atad();\n")
    os.utime(header, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert place.prepare(force=True) == first
    assert "two/deep/data.h" in place.said
    assert header.read_text() == "int data();\n"
    kept = mark(first)
    place.prepare(force=True)
    assert kept.exists()


def test_an_environment_of_an_earlier_version_is_held_against_its_packages(place: Place) -> None:
    first = place.prepare()
    ready = first.bin.parent / "vllm-builder-ready.json"
    ready.write_text('{"one": "1.0", "two": "1.0"}')
    kept = mark(first)
    assert place.prepare() == first
    assert kept.exists()
    ready.write_text('{"one": "1.0", "two": "1.0"}')
    lose_a_dist_info(place.site(first))
    assert place.prepare() == first
    assert not kept.exists()


@pytest.mark.parametrize("text", ["", "[]", '{"packages": {}, "files": 7}', '{"packages": 1, "files": {}}'])
def test_a_damaged_list_is_no_list(place: Place, text: str) -> None:
    first = place.prepare()
    gone = mark(first)
    (first.bin.parent / "vllm-builder-ready.json").write_text(text)
    assert place.prepare() == first
    assert not gone.exists()
