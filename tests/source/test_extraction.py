"""Archives that nobody vouches for."""

from __future__ import annotations

import bz2
import gzip
import io
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from source_helpers import make_sdist, tree_files

from vllm_builder.errors import BuilderError, HostileArchive, SourceError
from vllm_builder.stages.source import extract
from vllm_builder.stages.source.extraction import Limits


def member(name: str, data: bytes = b"x", **attributes: object) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for key, value in attributes.items():
        setattr(info, key, value)
    return info, data


def link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> tuple[tarfile.TarInfo, bytes]:
    return member(name, b"", type=kind, linkname=target)


def tar(path: Path, *members: tuple[tarfile.TarInfo, bytes], mode: str = "w:gz") -> Path:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for info, data in members:
            archive.addfile(info, io.BytesIO(data) if data else None)
    return path


def untouched(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_sdist_arrives_whole_without_its_top_folder(tmp_path: Path) -> None:
    archive = make_sdist(tmp_path, "0.9.2")
    extract(archive, tmp_path / "tree")
    found = {
        path.relative_to(tmp_path / "tree").as_posix(): path.read_bytes()
        for path in (tmp_path / "tree").rglob("*")
        if path.is_file()
    }
    assert found == tree_files("0.9.2")


def test_times_and_executable_bits_stay_and_setuid_goes(tmp_path: Path) -> None:
    extract(make_sdist(tmp_path, "0.9.2"), tmp_path / "tree")
    script = (tmp_path / "tree/tools/run.sh").stat()
    plain = (tmp_path / "tree/setup.py").stat()
    assert script.st_mtime == plain.st_mtime == 1_700_000_000
    assert script.st_mode & stat.S_IXUSR
    assert not script.st_mode & (stat.S_ISUID | stat.S_ISGID)
    assert not plain.st_mode & 0o111
    assert plain.st_mode & stat.S_IRUSR
    assert plain.st_mode & stat.S_IWUSR


@pytest.mark.parametrize(
    "members",
    [
        [member("/etc/x")],
        [member("t/../../x")],
        [member("..")],
        [member("t/a\\..\\b")],
        [member("C:/x")],
        [member("t/new\nline")],
        [link("t/a", "/etc/passwd")],
        [link("t/a", "../../outside")],
        [link("t/a", "../outside")],  # inside the archive, but above the tree once its top is stripped
        [link("t/a", "."), member("t/a/b")],
        [link("t/d/l", ".."), link("t/m", "d/l/../..")],
        [link("t/a", "b"), member("t/a", b"through")],
        [link("t/a", "/etc/passwd", tarfile.LNKTYPE)],
        [link("t/a", "../../etc/passwd", tarfile.LNKTYPE)],
        [link("t/a", "t/a", tarfile.LNKTYPE)],
        [link("t/s", "x"), link("t/a", "t/s", tarfile.LNKTYPE)],
        [member("t/fifo", b"", type=tarfile.FIFOTYPE)],
        [member("t/dev", b"", type=tarfile.CHRTYPE)],
        [member("t/blk", b"", type=tarfile.BLKTYPE)],
        [member("t/a"), member("t/a")],
        [member("t/a"), member("t/./a")],
        [member("t/a"), member("t/A")],
        [member("t/é"), member("t/e\u0301")],
        [member("t/Dir/a"), member("t/dir/b")],
        [member("t/a"), member("t/a/b")],
        [member("t/a/b"), member("t/a")],
        [member("t/" + "n" * 300)],
        [member("t/" + "n/" * 3000 + "x")],
    ],
    ids=lambda members: repr(members[-1][0].name)[:40],
)
def test_hostile_members_are_refused_and_leave_nothing(
    tmp_path: Path, members: list[tuple[tarfile.TarInfo, bytes]]
) -> None:
    inside = tmp_path / "a" / "b"
    inside.mkdir(parents=True)
    archive = tar(tmp_path / "h.tar.gz", member("t/first"), *members)
    with pytest.raises(HostileArchive) as caught:
        extract(archive, inside / "tree")
    assert caught.value.next
    assert untouched(inside) == []
    assert untouched(tmp_path) == ["a", "h.tar.gz"]


def test_links_that_stay_inside_are_made(tmp_path: Path) -> None:
    archive = tar(
        tmp_path / "l.tar",
        link("t/early", "sub/file"),
        member("t/sub/file", b"content"),
        link("t/sub/up", "../sub/file"),
        link("t/folder", "sub"),
        link("t/hard", "t/sub/file", tarfile.LNKTYPE),
        mode="w",
    )
    extract(archive, tmp_path / "tree")
    tree = tmp_path / "tree"
    assert all(
        (tree / name).read_bytes() == b"content" for name in ("early", "sub/up", "folder/file", "hard")
    )
    assert (tree / "early").is_symlink()
    # A copy: patching one must not change the other.
    assert not (tree / "hard").samefile(tree / "sub/file")


def test_large_archives_are_refused_by_what_they_unpack_to(tmp_path: Path) -> None:
    archive = tar(tmp_path / "bomb.tar.gz", member("t/zeros", bytes(8 << 20)))
    with pytest.raises(HostileArchive, match="unpacks to more than 1 MiB"):
        extract(archive, tmp_path / "tree", limits=Limits(total=1 << 20))
    with pytest.raises(HostileArchive, match="unpacks to more"):
        extract(archive, tmp_path / "tree", limits=Limits(ratio=10, ratio_floor=1 << 20))
    many = tar(tmp_path / "many.tar.gz", *(member(f"t/{n}") for n in range(20)))
    with pytest.raises(HostileArchive, match="more than 10 members"):
        extract(many, tmp_path / "tree", limits=Limits(members=10))
    assert not (tmp_path / "tree").exists()


def test_header_that_would_fill_memory_is_refused(tmp_path: Path) -> None:
    info = tarfile.TarInfo("././@PaxHeader")
    info.type, info.size = tarfile.XHDTYPE, 64 << 20
    path = tmp_path / "pax.tar.gz"
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(info.tobuf(tarfile.USTAR_FORMAT))
        for _ in range(64):
            file.write(bytes(1 << 20))
    with pytest.raises(HostileArchive, match="absurdly long"):
        extract(path, tmp_path / "tree")


def test_endlessly_nested_headers_are_refused(tmp_path: Path) -> None:
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 2
    block = info.tobuf(tarfile.GNU_FORMAT) + b"a\0".ljust(512, b"\0")
    path = tmp_path / "nested.tar"
    path.write_bytes(block * 20_000)
    with pytest.raises(BuilderError):
        extract(path, tmp_path / "tree")


def damaged(path: Path, how: Callable[[bytes], bytes]) -> Path:
    path.write_bytes(how(path.read_bytes()))
    return path


def test_a_plain_tar_that_ends_within_a_file(tmp_path: Path) -> None:
    archive = tar(tmp_path / "x.tar", member("top/setup.py", b"x" * 5000), mode="w")
    archive.write_bytes(archive.read_bytes()[:2000])
    with pytest.raises(SourceError, match="damaged"):
        extract(archive, tmp_path / "tree")
    assert untouched(tmp_path) == ["x.tar"]


@pytest.mark.parametrize(
    "how",
    [
        lambda data: data[: len(data) // 2],
        lambda data: data[:-4] + b"\0\0\0\0",
        lambda data: b"not an archive",
        lambda data: b"",
        lambda data: gzip.compress(gzip.decompress(data)[:1024]),
        # A header in the middle is overwritten: tarfile alone would take this for the end.
        lambda data: gzip.compress(
            gzip.decompress(data)[:2048] + b"\x7f" * 512 + gzip.decompress(data)[2560:]
        ),
    ],
    ids=["cut", "checksum", "text", "empty", "cut inside", "broken header"],
)
def test_damaged_archives_are_errors_not_smaller_trees(tmp_path: Path, how: Callable[[bytes], bytes]) -> None:
    archive = damaged(make_sdist(tmp_path, "0.9.2"), how)
    with pytest.raises(SourceError):
        extract(archive, tmp_path / "tree")
    assert untouched(tmp_path) == [archive.name]


def test_other_kinds_of_archives(tmp_path: Path) -> None:
    plain = gzip.decompress(make_sdist(tmp_path, "0.9.2").read_bytes())
    (tmp_path / "a.tar").write_bytes(plain)
    (tmp_path / "a.tar.bz2").write_bytes(bz2.compress(plain))
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name, data in tree_files("0.9.2").items():
            archive.writestr(f"vllm-0.9.2/{name}", data)
    for name in ("a.tar", "a.tar.bz2", "a.zip"):
        extract(tmp_path / name, tmp_path / f"{name}-tree")
        assert (tmp_path / f"{name}-tree/requirements/build.txt").read_bytes() == b"torch==2.7.0\n"


def zip_link(name: str, target: str) -> Callable[[zipfile.ZipFile], None]:
    def write(archive: zipfile.ZipFile) -> None:
        info = zipfile.ZipInfo(name)
        info.create_system = 3
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(info, target)

    return write


@pytest.mark.parametrize(
    "write",
    [
        lambda archive: archive.writestr("../x", "x"),
        lambda archive: archive.writestr("/x", "x"),
        lambda archive: archive.writestr("t\\..\\x", "x"),
        zip_link("t/a", "/etc/passwd"),
        zip_link("t/a", "../../x"),
        lambda archive: archive.writestr("t/zeros", bytes(3 << 20)),
    ],
)
def test_hostile_zips_are_refused(tmp_path: Path, write: Callable[[zipfile.ZipFile], None]) -> None:
    with zipfile.ZipFile(tmp_path / "h.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("t/first", "x")
        write(archive)
    with pytest.raises(HostileArchive):
        extract(tmp_path / "h.zip", tmp_path / "tree", limits=Limits(ratio_floor=2 << 20))
    assert untouched(tmp_path) == ["h.zip"]


def test_only_selected_files_are_written_but_all_is_checked(tmp_path: Path) -> None:
    archive = make_sdist(tmp_path, "0.9.2")
    extract(archive, tmp_path / "part", select=lambda path: path == "setup.py")
    assert [path.name for path in (tmp_path / "part").rglob("*")] == ["setup.py"]
    bad = tar(tmp_path / "bad.tar.gz", member("t/setup.py"), link("t/unselected", "/etc/passwd"))
    with pytest.raises(HostileArchive):
        extract(bad, tmp_path / "bad", select=lambda path: path == "setup.py")


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    archive = make_sdist(tmp_path, "0.9.2")
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/mine").write_text("precious")
    with pytest.raises(SourceError, match="exists already"):
        extract(archive, tmp_path / "tree")
    assert (tmp_path / "tree/mine").read_text() == "precious"


_NAMES = st.lists(
    st.sampled_from(["t", "a", "A", "b", "..", ".", "", "é", "n" * 300, "x\\y", "con\x01trol"]),
    min_size=1,
    max_size=4,
).map("/".join)
_KINDS = st.sampled_from(
    [tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE]
)
_MEMBERS = st.tuples(
    _NAMES | _NAMES.map(lambda name: f"t/{name}"),
    _KINDS,
    _NAMES,
    st.binary(max_size=40),
    st.integers(0, 0o7777),
)


@pytest.mark.parametrize("links", [{"t": "t"}, {"a": "b", "b": "a"}])
def test_links_that_lead_to_themselves_are_refused(tmp_path: Path, links: dict[str, str]) -> None:
    entries = [member(f"top/{name}", b"", type=tarfile.SYMTYPE, linkname=to) for name, to in links.items()]
    archive = tar(tmp_path / "any.tar", *entries, mode="w")
    with pytest.raises(HostileArchive, match="refused") as caught:
        extract(archive, tmp_path / "tree")
    assert "leads back to itself" in str(vars(caught.value))
    assert not (tmp_path / "tree").exists()


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    members=st.lists(_MEMBERS, max_size=8),
    flips=st.lists(st.tuples(st.integers(0), st.integers(0, 255)), max_size=2),
)
def test_any_archive_ends_in_a_tree_or_in_an_error_of_ours(
    tmp_path_factory: pytest.TempPathFactory,
    members: list[tuple[str, bytes, str, bytes, int]],
    flips: list[tuple[int, int]],
) -> None:
    folder = tmp_path_factory.mktemp("any")
    entries = [
        member(name, data if kind == tarfile.REGTYPE else b"", type=kind, linkname=target, mode=mode)
        for name, kind, target, data, mode in members
    ]
    archive = tar(folder / "any.tar", *entries, mode="w")
    data = bytearray(archive.read_bytes())
    for place, value in flips:
        data[place % len(data)] = value
    archive.write_bytes(data)
    inner = folder / "inner"
    inner.mkdir()
    try:
        extract(archive, inner / "tree")
    except BuilderError:
        assert untouched(inner) == []
    else:
        assert untouched(inner) == ["tree"]
        root = (inner / "tree").resolve()
        for path in root.rglob("*"):
            assert path.resolve().is_relative_to(root)
            assert path.is_symlink() or path.is_file() or path.is_dir()
    assert untouched(folder) == ["any.tar", "inner"]
