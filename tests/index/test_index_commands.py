"""``vllm-builder index`` as it is typed: what it takes, what it refuses, and what it says then."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from command_helpers import Types, versions
from index_helpers import make_wheel

from vllm_builder import errors


def test_help_names_all_commands(types: Types) -> None:
    code, out, _ = types("--help")
    assert code == 0
    for name in ("publish", "list", "yank", "unyank", "promote", "prune", "check", "rebuild", "serve"):
        assert name in out
        assert types(name, "--help")[0] == 0


def test_publish_says_what_became_of_each_wheel_and_again_changes_nothing(types: Types, dist: Path) -> None:
    wheel = next(dist.glob("vllm-0.9.2+cpu*"))
    put = ("publish", wheel, "--to", "index", "--no-verify", "toys", "-q")
    code, out, _ = types(*put)
    assert (code, out) == (
        0,
        "published: vllm-0.9.2+cpu-py3-none-any.whl [cpu] in 0.9.2, release; not verified, provenance none\n",
    )
    before = Path("index/manifest/root.json").read_bytes()
    code, out, _ = types(*put, "--json")
    assert json.loads(out)["wheels"][0]["outcome"] == "unchanged"
    assert Path("index/manifest/root.json").read_bytes() == before


def test_a_wheel_that_fails_verification_is_refused(types: Types, dist: Path) -> None:
    code, _, err = types("publish", next(dist.glob("vllm-0.9.2+cpu*")), "--to", "index", "--offline")
    assert code == errors.PublishRefused.exit_code
    assert "--no-verify" in err
    assert not Path("index/manifest/root.json").exists()


def test_a_group_appears_when_it_is_whole(types: Types, dist: Path) -> None:
    group = ("--to", "index", "--no-verify", "toys", "--group", "n1", "--expect", "cpu,cu130", "-q")
    code, out, _ = types("publish", next(dist.glob("vllm-1.0.dev1+cpu*")), *group)
    assert code == 0
    assert out.startswith("staged, waits for cu130")
    shown = types("list", "--to", "index")[1]
    assert "No file yet" in shown
    assert "n1" in shown
    assert types("publish", next(dist.glob("vllm-1.0.dev1+cu130*")), *group)[1].startswith("published")
    assert "vllm 1.0.dev1" in types("list", "--to", "index")[1]


def test_list_is_a_table_by_version_and_by_file(index: Types) -> None:
    index("yank", "1.0.dev0+cpu", "--reason", "[red]<b>bad</b>")
    code, out, _ = index("list")
    assert code == 0
    rows = {line.split("  ")[0].strip(): line for line in out.splitlines()}
    assert "1.0.dev1+cpu" in rows["nightly"]
    assert "cpu, cu130" in rows["vllm 1.0.dev1"]
    assert "yanked: cpu ([red]<b>bad</b>)" in rows["vllm 1.0.dev0"]
    assert "and 3 of single versions" in out
    _, out, _ = index("list", "1.0.dev0")
    assert "vllm-1.0.dev0+cu130-py3-none-any.whl" in out
    _, out, _ = index("list", "--variant", "cpu", "--json")
    assert {one["variant"] for one in json.loads(out)["files"]} == {"cpu"}


def test_yank_by_version_file_hash_and_back(index: Types) -> None:
    found = json.loads(index("list", "0.9.2+cpu", "--json")[1])["files"][0]["file"]
    for spec in ("0.9.2", "vllm==0.9.2", "vLLM==0.9.2+cpu", found["filename"], found["sha256"][:10]):
        said = json.loads(index("yank", spec, "--reason", "bad", "--dry-run", "--json")[1])
        assert said["dry_run"] is True
        assert found["filename"] in {one["filename"] for one in said["files"]}
        assert {one["outcome"] for one in said["files"]} == {"yanked"}
    assert index("yank", "0.9.2", "--reason", "bad")[0] == 0
    assert 'data-yanked="bad"' in Path("index/release/cpu/vllm/index.html").read_text()
    assert index("yank", "0.9.2", "--reason", "bad")[1].startswith("unchanged")
    assert index("unyank", "0.9.2")[1].count("offered again") == 2
    assert "data-yanked" not in Path("index/release/cpu/vllm/index.html").read_text()


def test_html_in_a_reason_is_text(index: Types) -> None:
    reason = '"><script>alert(1)</script>'
    assert index("yank", "0.9.2", "--reason", reason)[0] == 0
    page = Path("index/release/cpu/vllm/index.html").read_text()
    assert "<script>" not in page
    assert json.loads(Path("index/release/cpu/vllm/index.json").read_text())["files"][0]["yanked"] == reason
    assert index("check", "-q")[0] == 0


def test_promote_moves_without_uploading(index: Types) -> None:
    before = {p: p.stat().st_mtime_ns for p in Path("index/files").rglob("*") if p.is_file()}
    code, out, _ = index("promote", "1.0.dev1", "--dry-run")
    assert code == 0
    assert out.count("would be promoted") == 2
    assert "1.0.dev1+cpu" in versions(index, "nightly")
    assert index("promote", "1.0.dev1")[1].count("promoted") == 2
    assert "1.0.dev1+cpu" in versions(index, "release")
    assert "1.0.dev1+cpu" not in versions(index, "nightly")
    assert "1.0.dev1" in Path("index/release/cu130/vllm/index.html").read_text()
    assert index("promote", "1.0.dev1")[1].count("unchanged") == 2
    assert index("promote", "1.0.dev0", "--keep", "--channel", "stable")[0] == 0
    assert "1.0.dev0+cpu" in versions(index, "nightly") & versions(index, "stable")
    assert {p: p.stat().st_mtime_ns for p in Path("index/files").rglob("*") if p.is_file()} == before
    assert index("check", "-q")[0] == 0


def test_a_yanked_file_is_not_promoted(index: Types) -> None:
    index("yank", "1.0.dev1+cpu", "--reason", "bad")
    code, _, err = index("promote", "1.0.dev1")
    assert code == errors.PublishRefused.exit_code
    assert "unyank" in err
    assert "1.0.dev1+cu130" not in versions(index, "release")


def test_prune_and_check_and_rebuild(index: Types) -> None:
    said = json.loads(index("prune", "--keep", "1", "--json", "-q")[1])
    assert said["kept"] == ["vllm 1.0.dev1"]
    assert len(said["yanked"]) == 2
    code, out, _ = index("check", "--json", "-q")
    assert code == 0
    assert json.loads(out)["good"] is True
    Path("index/release/cpu/index.html").unlink()
    code, out, err = index("check")
    assert code == errors.CheckFailed.exit_code
    assert "page-missing" in out
    assert "index rebuild" in " ".join(out.split())
    assert "1 error" in err
    assert index("rebuild", "-q")[0] == 0
    assert index("check", "-q")[0] == 0


# Bad input --------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("arguments", "kind", "said"),
    [
        (("yank", "0.9.3", "--reason", "x"), errors.NotInIndex, "did you mean 0.9.2"),
        (("yank", "vlm==0.9.2", "--reason", "x"), errors.NotInIndex, "did you mean vllm==0.9.2"),
        (("yank", "0.9.2+cu13", "--reason", "x"), errors.NotInIndex, "did you mean 0.9.2+cu130"),
        (("yank", "vllm-0.9.2+cpu-py3-none-any.wh", "--reason", "x"), errors.NotInIndex, "did you mean vllm-0.9.2"),
        (("yank", "../../etc", "--reason", "x"), errors.NotInIndex, "index list"),
        (("yank", "", "--reason", "x"), errors.NotInIndex, "Name a file"),
        (("yank", "0.9.2", "--reason", " \n"), errors.SettingsError, "--reason"),
        (("yank", "0.9.2", "--reason", "a\x1b[31mb"), errors.SettingsError, "cannot be printed"),
        (("yank", "0.9.2", "--reason", "x" * 501), errors.SettingsError, "at most 500"),
        (("unyank", "nothing"), errors.NotInIndex, "index list"),
        (("list", "--channel", "nigthly"), errors.NotInIndex, "did you mean nightly"),
        (("list", "--variant", "cu129"), errors.NotInIndex, "cu130"),
        (("list", "9.9"), errors.NotInIndex, "index list"),
        (("promote", "0.9.2"), errors.NotInIndex, ""),
        (("promote", "1.0.dev1", "--from", "nigtly"), errors.NotInIndex, "did you mean nightly"),
        (("promote", "1.0.dev1", "--channel", "../x"), errors.SettingsError, "Choose another"),
        (("promote", "1.0.dev1", "--channel", "files"), errors.SettingsError, "taken for the index"),
        (("promote", "7.7"), errors.NotInIndex, "index list"),
        (("prune", "--keep", "1", "--grace", "soon"), errors.SettingsError, "7d, 12h"),
        (("check", "--max-age", "old"), errors.SettingsError, "--max-age"),
        (("check", "--key", "nothing.pem"), errors.SettingsError, "--provenance"),
    ],
)  # fmt: skip
def test_what_is_refused_says_what_to_type(
    index: Types, arguments: tuple[str, ...], kind: type[errors.BuilderError], said: str
) -> None:
    if arguments[:2] == ("promote", "0.9.2"):
        # It is where it was to go already; from elsewhere it is not in that channel.
        assert index(*arguments)[1].count("unchanged") == 2
        arguments = (*arguments, "--channel", "stable")
        said = "--from"
    before = Path("index/manifest/root.json").read_bytes()
    code, _, err = index(*arguments)
    assert code == kind.exit_code, err
    assert said in err
    assert "next:" in err
    code, out, _ = index(*arguments, "--json")
    assert json.loads(out)["error"] == kind.__name__
    assert Path("index/manifest/root.json").read_bytes() == before


def test_a_hash_that_several_begin_with(types: Types, tmp_path: Path) -> None:
    from datetime import UTC, datetime

    from vllm_builder.index.model import File
    from vllm_builder.index.selecting import select

    def file(name: str, sha256: str) -> File:
        return File(
            filename=name, project="demo", version="1.0", sha256=sha256, size=1, uploaded=datetime.now(UTC),
            metadata_sha256=sha256, channels=(),
        )  # fmt: skip

    files = [("cpu", file("a.whl", "abcdef" + "0" * 58)), ("cpu", file("b.whl", "abcdef" + "1" * 58))]
    with pytest.raises(errors.NotInIndex) as error:
        select(files, "abcdef")
    assert len(error.value.details) == 2
    assert [one.file.filename for one in select(files, "abcdef1")] == ["b.whl"]


@pytest.mark.parametrize("command", [("list",), ("check",), ("rebuild",), ("prune", "--keep", "1"),
                                     ("yank", "1", "--reason", "x"), ("promote", "1")])  # fmt: skip
def test_places_that_are_no_index(types: Types, tmp_path: Path, command: tuple[str, ...]) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "empty").mkdir()
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.tex").write_text("years of work")
    for place, kind, said in (
        ("file", errors.SettingsError, "is a file"),
        ("file/below", errors.NotInIndex, "publish WHEEL"),
        ("missing", errors.NotInIndex, "does not exist"),
        ("empty", errors.NotInIndex, "publish WHEEL"),
        ("mine", errors.SettingsError, "thesis.tex"),
        ("https://wheels.invalid/simple", errors.SettingsError, "server"),
        ("", errors.SettingsError, "--to"),
    ):
        code, _, err = types(*command, "--to", place)
        assert code == kind.exit_code, (place, err)
        assert said in err, (place, err)
        assert "next:" in err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["empty", "file", "mine"]
    assert [p.name for p in mine.iterdir()] == ["thesis.tex"]


def test_nobodys_folder_is_taken_over(types: Types, dist: Path, tmp_path: Path) -> None:
    wheel = next(dist.glob("*.whl"))
    (tmp_path / "file").write_text("x")
    # Names as an index has them do not make one.
    for name in ("files/report.pdf", "manifest/notes.json", "journal/monday.md"):
        path = tmp_path / "mine" / name.partition("/")[0] / name
        path.parent.mkdir(parents=True)
        path.write_text("mine")
    for place in ("file", "dist", "mine/files", "mine/manifest", "mine/journal"):
        code, _, err = types("publish", wheel, "--to", place, "--no-verify", "toys")
        assert code == errors.SettingsError.exit_code
        assert "--to" in err
    assert all(p.suffix == ".whl" for p in dist.iterdir())
    assert all(p.read_text() == "mine" for p in (tmp_path / "mine").rglob("*") if p.is_file())
    (tmp_path / "empty").mkdir()
    assert types("publish", wheel, "--to", "empty", "--no-verify", "toys")[0] == 0


def test_a_lost_root_is_not_begun_anew(index: Types, types: Types, dist: Path) -> None:
    Path("index/manifest/root.json").unlink()
    wheel = next(dist.glob("*.whl"))
    for command in (
        ("publish", wheel, "--no-verify", "toys"),
        ("list",),
        ("rebuild",),
        ("prune", "--keep", "1"),
    ):
        code, _, err = index(*command)
        assert code == errors.IndexDamaged.exit_code
        assert "--from-shards" in err
    assert index("check")[0] == errors.CheckFailed.exit_code
    assert index("rebuild", "--from-shards")[0] == 0
    assert index("check")[0] == 0


def test_a_first_publisher_who_was_ended_is_in_nobodys_way(types: Types, dist: Path) -> None:
    from vllm_builder.index.candidates import read_candidate
    from vllm_builder.index.publishing import publish
    from vllm_builder.index.storage.folder import Folder

    class Ended(Folder):
        def replace(self, key, *args, **more):  # type: ignore[no-untyped-def]
            if key == "manifest/root.json":
                raise KeyboardInterrupt
            return super().replace(key, *args, **more)

    wheel = next(dist.glob("*.whl"))
    with pytest.raises(KeyboardInterrupt):
        publish(Ended(Path("index").absolute()), [read_candidate(wheel)])
    assert types("publish", wheel, "--to", "index", "--no-verify", "toys")[0] == 0
    assert types("check", "--to", "index")[0] == 0


def _text(folder: Path) -> Path:
    path = folder / "demo-1.0-py3-none-any.whl"
    path.write_text("no zip")
    return path


def _other_name(folder: Path) -> Path:
    made = make_wheel(folder / "made", "other", "1.0+cpu")
    return made.rename(folder / "demo-1.0+cpu-py3-none-any.whl")


def _other_version(folder: Path) -> Path:
    made = make_wheel(folder / "made", "demo", "1.0+cpu")
    return made.rename(folder / "demo-2.0+cpu-py3-none-any.whl")


def _other_metadata(folder: Path) -> Path:
    made = make_wheel(folder / "made", "demo", "1.0+cpu")
    path = folder / made.name
    with zipfile.ZipFile(made) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            data = old.read(name)
            new.writestr(
                name, data.replace(b"Version: 1.0+cpu", b"Version: 1.0+cu130") if "METADATA" in name else data
            )
    return path


def _leaves(folder: Path) -> Path:
    made = make_wheel(folder / "made", "demo", "1.0+cpu")
    path = folder / made.name
    path.write_bytes(made.read_bytes())
    with zipfile.ZipFile(path, "a") as wheel:
        wheel.writestr("../../escaped.py", "x = 1")
    return path


def _no_variant(folder: Path) -> Path:
    return make_wheel(folder, "demo", "1.0", tag="cp312-cp312-linux_x86_64")


def _folder(folder: Path) -> Path:
    (folder / "demo-1.0-py3-none-any.whl").mkdir()
    return folder / "demo-1.0-py3-none-any.whl"


def _absent(folder: Path) -> Path:
    return folder / "demo-1.0-py3-none-any.whl"


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (_text, errors.WheelError),
        (_other_name, errors.WheelError),
        (_other_version, errors.WheelError),
        (_other_metadata, errors.WheelError),
        (_leaves, errors.WheelError),
        (_no_variant, errors.PublishRefused),
        (_folder, errors.WheelError),
        (_absent, errors.WheelError),
    ],
)
def test_a_wheel_that_cannot_be_published(
    types: Types, tmp_path: Path, make: Callable[[Path], Path], kind: type[errors.BuilderError]
) -> None:
    folder = tmp_path / "bad"
    folder.mkdir()
    code, _, err = types("publish", make(folder), "--to", "index", "--no-verify", "toys")
    assert code == kind.exit_code, err
    assert "demo-" in err
    assert not (tmp_path / "index/manifest").exists()
    assert not list(tmp_path.rglob("escaped.py"))


@pytest.mark.parametrize("name", ["../../x-1.0-py3-none-any.whl", "x-1.0-py3-none-any.whl/../../y"])
def test_a_name_that_leaves_the_folder(types: Types, tmp_path: Path, name: str) -> None:
    code, _, _ = types("publish", tmp_path / "a" / "b" / name, "--to", "index", "--no-verify", "toys")
    assert code == errors.WheelError.exit_code


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--channel", "Nightly"), "small letters"),
        (("--channel", "../x"), "small letters"),
        (("--channel", "manifest"), "taken"),
        (("--variant", "cu 130"), "small letters"),
        (("--expect", "cpu,cu130"), "--group"),
        (("--no-verify", " "), "--no-verify"),
    ],
)
def test_options_of_publish(types: Types, dist: Path, options: tuple[str, ...], said: str) -> None:
    more = () if "--no-verify" in options else ("--no-verify", "toys")
    code, _, err = types("publish", next(dist.glob("*.whl")), "--to", "index", *more, *options)
    assert code == errors.SettingsError.exit_code
    assert said in err
    assert not Path("index").exists()


def test_html_in_a_summary_is_text(types: Types, tmp_path: Path) -> None:
    wheel = make_wheel(tmp_path / "dist", "demo", "1.0+cpu", summary="</script><script>alert(1)</script>")
    assert types("publish", wheel, "--to", "index", "--no-verify", "toys")[0] == 0
    for page in Path("index").rglob("*"):
        if page.suffix in {".html", ".js"} and "files" not in page.parts:
            assert "<script>alert" not in page.read_text(), page


def test_another_content_under_the_same_name_is_refused(types: Types, tmp_path: Path) -> None:
    first = make_wheel(tmp_path / "a", "demo", "1.0+cpu")
    other = make_wheel(tmp_path / "b", "demo", "1.0+cpu", body="x = 2\n")
    assert types("publish", first, "--to", "index", "--no-verify", "toys")[0] == 0
    code, _, err = types("publish", other, "--to", "index", "--no-verify", "toys")
    assert code == errors.PublishRefused.exit_code
    assert "never changes" in err
