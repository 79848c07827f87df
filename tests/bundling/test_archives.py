"""What a bundle's file may be and may not be: changed, cut off, hostile, of another time, in the way of others."""

from __future__ import annotations

import contextlib
import errno
import gzip
import json
import os
import tarfile
from pathlib import Path
from typing import Any, NoReturn

import pytest
from bundling_helpers import Machine, Origin, manifest_of, members, pack
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vllm_builder.bundling import open_bundle, read_manifest
from vllm_builder.bundling.model import MANIFEST
from vllm_builder.cache import Cache
from vllm_builder.errors import BundleError, HashMismatch, HostileArchive, NoSpace, NotWritable
from vllm_builder.events import Event, Progress

Contents = list[tuple[tarfile.TarInfo | str, bytes]]


@pytest.fixture
def contents(ready: Path) -> Contents:
    return list(members(ready).items())


def _with(contents: Contents, **changes: Any) -> Contents:
    """The same with another manifest."""
    manifest = json.loads(contents[0][1]) | changes
    return [(MANIFEST, json.dumps(manifest).encode()), *contents[1:]]


def _refused(file: Path, tmp_path: Path, *errors: type[Exception]) -> str:
    """Refused, with nothing left in the cache and nothing beside it."""
    cache = tmp_path / "inside" / "cache"
    before = {path for path in tmp_path.rglob("*") if cache not in path.parents}
    with pytest.raises(errors) as caught:
        open_bundle(file, Cache(cache))
    left = [path for path in cache.rglob("*") if path.is_file() and path.suffix != ".lock"]
    assert left == []
    assert {path for path in tmp_path.rglob("*") if cache not in path.parents} <= before | {
        cache,
        cache.parent,
    }
    return str(caught.value)


def _link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = kind
    info.linkname = target
    return info


def test_a_changed_byte_in_a_file(contents: Contents, tmp_path: Path) -> None:
    name, data = contents[-1]
    contents[-1] = (name, data[:100] + bytes([data[100] ^ 1]) + data[101:])
    assert str(name) in _refused(pack(tmp_path / "b.tar", contents), tmp_path, HashMismatch)


@pytest.mark.parametrize("what", ["edited", "added", "gone"])
def test_a_copy_in_the_cache_that_was_changed_is_unpacked_again(
    contents: Contents, tmp_path: Path, what: str
) -> None:
    cache = Cache(tmp_path / "cache")
    bundle = pack(tmp_path / "b.tar", contents)
    folder = open_bundle(bundle, cache).folder
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    (patch, *_) = sorted(folder.glob("patches/*"))
    if what == "edited":
        # The same size, as a careless edit of a digit has it.
        patch.write_bytes(patch.read_bytes()[:-1] + b"#")
    elif what == "added":
        (patch.parent / "mine.toml").write_text("x = 1\n")
    else:
        patch.unlink()
    assert open_bundle(bundle, cache).folder == folder
    after = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    listing = folder / "vllm-builder-listing.json"
    assert {p: d for p, d in after.items() if p != listing} == {
        p: d for p, d in before.items() if p != listing
    }


def test_an_intact_copy_in_the_cache_is_not_unpacked_again(contents: Contents, tmp_path: Path) -> None:
    events: list[Event] = []
    for _ in range(2):
        events.clear()
        open_bundle(pack(tmp_path / "b.tar", contents), Cache(tmp_path / "cache"), events.append)
    assert events == []


def test_a_file_of_another_size(contents: Contents, tmp_path: Path) -> None:
    contents[-1] = (contents[-1][0], contents[-1][1] + b"x")
    _refused(pack(tmp_path / "b.tar", contents), tmp_path, HashMismatch)


def test_a_changed_input_in_the_manifest(contents: Contents, tmp_path: Path) -> None:
    inputs = json.loads(contents[0][1])["inputs"] | {"device": "empty"}
    _refused(pack(tmp_path / "b.tar", _with(contents, inputs=inputs)), tmp_path, BundleError)


@pytest.mark.parametrize(
    "further",
    [
        "/etc/evil",
        "../evil",
        "wheels/../../evil",
        "unlisted.txt",
        _link("link", "/etc"),
        _link("link", "../.."),
        _link("hard", "/etc/passwd", tarfile.LNKTYPE),
        _link("device", "", tarfile.CHRTYPE),
        _link("folder", "", tarfile.DIRTYPE),
    ],
    ids=lambda further: further if isinstance(further, str) else f"{further.name} to {further.linkname}",
)
def test_a_member_that_the_manifest_does_not_list(
    contents: Contents, tmp_path: Path, further: str | tarfile.TarInfo
) -> None:
    _refused(pack(tmp_path / "b.tar", [*contents, (further, b"evil")]), tmp_path, HostileArchive)
    assert not Path("/etc/evil").exists()


def test_a_listed_file_that_is_a_link(contents: Contents, tmp_path: Path) -> None:
    name = str(contents[-1][0])
    contents[-1] = (_link(name, "../../../evil"), b"")
    _refused(pack(tmp_path / "b.tar", contents), tmp_path, HostileArchive)


def test_a_file_twice(contents: Contents, tmp_path: Path) -> None:
    _refused(pack(tmp_path / "b.tar", [*contents, contents[-1]]), tmp_path, HostileArchive)


def test_a_file_that_is_not_there(contents: Contents, tmp_path: Path) -> None:
    _refused(pack(tmp_path / "b.tar", contents[:-1]), tmp_path, BundleError)


@pytest.mark.parametrize("path", ["../evil", "/evil", "a/../../evil", "a//b", "C:evil", "a\\b", "x\ny", "."])
def test_a_manifest_that_lists_a_path_outside(contents: Contents, tmp_path: Path, path: str) -> None:
    files = json.loads(contents[0][1])["files"]
    files[-1]["path"] = path
    contents[-1] = (path, contents[-1][1])
    _refused(pack(tmp_path / "b.tar", _with(contents, files=files)), tmp_path, BundleError)


@pytest.mark.parametrize("again", ["PATCHES/NUMA.toml", "patches/numa.toml/x", "patches", "manifest.json"])
def test_a_manifest_whose_files_are_in_each_others_way(
    contents: Contents, tmp_path: Path, again: str
) -> None:
    files = json.loads(contents[0][1])["files"]
    files[-1]["path"] = again
    _refused(pack(tmp_path / "b.tar", _with(contents, files=files)), tmp_path, BundleError)


def test_a_later_format_says_by_whom_it_was_written(contents: Contents, tmp_path: Path) -> None:
    file = pack(tmp_path / "b.tar", _with(contents, format=2, builder="9.8.7", unheard_of=True))
    with pytest.raises(BundleError) as caught:
        read_manifest(file)
    assert "9.8.7" in caught.value.why
    _refused(file, tmp_path, BundleError)


@pytest.mark.parametrize(
    "data",
    [b"", b"no archive at all" * 100, b"PK\x03\x04", gzip.compress(b"no tar")],
    ids=["empty", "text", "zip", "gzip"],
)
def test_no_bundle_at_all(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "b.tar").write_bytes(data)
    _refused(tmp_path / "b.tar", tmp_path, BundleError)


def test_another_archive(tmp_path: Path, origin: Origin) -> None:
    assert "is no bundle" in _refused(origin.sdist(), tmp_path, BundleError)


def test_a_bomb(contents: Contents, tmp_path: Path) -> None:
    name = str(contents[-1][0])
    contents[-1] = (name, bytes(80 << 20))
    _refused(pack(tmp_path / "b.tar.gz", contents, "w:gz"), tmp_path, HashMismatch, HostileArchive)


def test_a_compressed_one_is_read_too(ready: Path, tmp_path: Path) -> None:
    (tmp_path / "b.tar.gz").write_bytes(gzip.compress(ready.read_bytes(), 1))
    opened = open_bundle(tmp_path / "b.tar.gz", Cache(tmp_path / "cache"))
    assert opened.manifest == read_manifest(ready)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_damage_anywhere_is_seen_or_does_no_harm(
    ready: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("damaged")
    raw = bytearray(ready.read_bytes())
    if data.draw(st.booleans(), label="cut off"):
        del raw[data.draw(st.integers(0, len(raw) - 1), label="at") :]
    else:
        raw[data.draw(st.integers(0, len(raw) - 1), label="byte")] ^= data.draw(st.integers(1, 255))
    (folder / "b.tar").write_bytes(raw)
    try:
        opened = open_bundle(folder / "b.tar", Cache(folder / "cache"))
    except (BundleError, HashMismatch, HostileArchive):
        assert not list((folder / "cache").rglob("*.whl"))
        return
    for name, content in members(ready).items():
        if name != MANIFEST:
            assert (opened.folder / name).read_bytes() == content


def test_a_full_disk_while_it_is_unpacked(
    ready: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, count = Path.open, [0]

    def full(self: Path, mode: str = "r", *more: Any, **options: Any) -> Any:
        if mode == "xb":
            count[0] += 1
            if count[0] == 4:
                raise OSError(errno.ENOSPC, "No space left on device", str(self))
        return real(self, mode, *more, **options)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "open", full)
        _refused(ready, tmp_path, NoSpace)
    assert open_bundle(ready, Cache(tmp_path / "inside" / "cache")).folder.is_dir()


def test_too_little_room_is_said_before_anything_is_written(
    ready: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(100, 90, 10))  # type: ignore[attr-defined]
    _refused(ready, tmp_path, NoSpace)


# Writing -----------------------------------------------------------------------------------------
def test_the_same_again_is_the_same_file(origin: Origin) -> None:
    options: dict[str, Any] = {"source": str(origin.sdist()), "device": "cpu"}
    first = origin.bundle(name="a.tar", **options)
    second = origin.bundle(name="b.tar", **options)
    assert first.path.read_bytes() == second.path.read_bytes()
    assert first.sha256 == second.sha256
    assert not list((origin.folder / "cache" / "bundles").iterdir())


def test_a_file_that_exists_is_left_alone(origin: Origin) -> None:
    (origin.folder / "bundle.tar").write_text("mine")
    with pytest.raises(NotWritable, match="exists"):
        origin.bundle(source=str(origin.sdist()), device="cpu")
    assert (origin.folder / "bundle.tar").read_text() == "mine"
    assert origin.events == []


@pytest.mark.parametrize("problem", [KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left on device")])
def test_broken_off_while_it_is_written(origin: Origin, problem: BaseException) -> None:
    seen = []

    def listen(event: Event) -> None:
        if isinstance(event, Progress) and event.stage == "bundle":
            seen.extend(origin.folder.glob(".bundle.tar.*"))
            _raise(problem)

    origin.events = _Listening(listen)  # type: ignore[assignment]
    with pytest.raises((KeyboardInterrupt, NoSpace)):
        origin.bundle(source=str(origin.sdist()), device="cpu")
    assert seen
    assert not list(origin.folder.glob("*bundle.tar*"))
    assert not list((origin.folder / "cache" / "bundles").iterdir())


def _raise(problem: BaseException) -> NoReturn:
    raise problem


class _Listening(list[Event]):
    def __init__(self, listen: Any) -> None:
        super().__init__()
        self.append = listen  # type: ignore[method-assign]


def test_no_credentials_and_no_folders_of_the_machine_are_in_it(origin: Origin) -> None:
    origin.environ["PIP_EXTRA_INDEX_URL"] = "https://someone:sekrit@packages.invalid/simple"
    tree = origin.release()
    made = origin.bundle(
        source=str(tree),
        device="cpu",
        externals={"kit": "https://someone:sekrit@git.invalid/kit.git"},
        torch_index="https://someone:sekrit@torch.invalid/whl",
    )
    manifest = json.dumps(manifest_of(made.path) | {"settings": {}})
    assert "sekrit" not in made.path.read_bytes().decode("latin-1")
    assert str(origin.folder) not in manifest
    # What was typed is kept as it was typed: somebody may type it again.
    with contextlib.suppress(KeyError):
        assert manifest_of(made.path)["settings"]["source"] == str(tree)


def test_it_is_for_everybody_to_read(origin: Origin) -> None:
    before = os.umask(0o022)
    try:
        made = origin.bundle(source=str(origin.sdist()), device="cpu")
    finally:
        os.umask(before)
    assert made.path.stat().st_mode & 0o777 == 0o644


def test_what_is_in_the_cache_can_be_cleared_away(ready: Path, closed: Machine) -> None:
    from vllm_builder.stages.store.caches import prune_cache

    cache = Cache(closed.folder / "cache")
    opened = open_bundle(ready, cache)
    report = prune_cache(cache, ["bundles"])
    assert [item.path for item in report.removed] == [opened.folder]
    assert open_bundle(ready, cache).folder.is_dir()


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("archs",), ["10.0"]),
        (("device",), "empty"),
        (("python_tag",), ""),
        (("python_tag",), "x"),
        (("build_torch", "version"), "x"),
        (("recipe", "values"), {"x": "y"}),
        (("recipe", "when", 0, "releases"), "x"),
        (("recipe", "when", 0, "values", "variables"), 0),
        (("settings", "extensions"), ["x"]),
        (("settings", "parameters"), {"x": "y"}),
        (("settings", "with_patch"), ["x"]),
        (("source", "identity"), "\0"),
        (("source", "release"), "9999"),
    ],
)
def test_a_value_of_the_manifest_that_cannot_be(
    contents: Contents, tmp_path: Path, closed: Machine, place: tuple[str | int, ...], value: object
) -> None:
    manifest = json.loads(contents[0][1])
    inner = manifest
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    file = pack(tmp_path / "b.tar", [(MANIFEST, json.dumps(manifest).encode()), *contents[1:]])
    with pytest.raises(BundleError) as caught:
        closed.plan(bundle=file)
    assert caught.value.exit_code == 26
    assert caught.value.next
