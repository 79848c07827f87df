"""What a person types by mistake: the command says so, or does what was meant; the index keeps its sense."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

import pytest
from command_helpers import Types, versions
from index_helpers import make_wheel

from vllm_builder import errors
from vllm_builder.index.serving import addresses


def _toy(types: Types, wheel: Path, *more: object) -> tuple[int, str, str]:
    return types("publish", wheel, "--to", "index", "--no-verify", "toys", *more)


def test_a_version_stays_in_its_own_channel_wherever_it_is_promoted_to(index: Types) -> None:
    assert index("promote", "1.0.dev1", "--from", "1.0.dev1", "--channel", "stable")[0] == 0
    assert "1.0.dev1+cpu" in versions(index, "stable") & versions(index, "1.0.dev1")
    assert "1.0.dev1+cpu" in versions(index, "nightly")  # it was not what was to be left
    assert index("check", "-q")[0] == 0


def test_from_where_to_promote_is_a_channel_that_somebody_chose(index: Types) -> None:
    index("promote", "1.0.dev1", "--channel", "zoo")
    code, _, err = index("promote", "1.0.dev1", "--channel", "stable")
    assert code == errors.NotInIndex.exit_code
    assert "--from zoo" in err


def test_the_channel_of_a_version_holds_no_other(index: Types, types: Types, dist: Path) -> None:
    before = Path("index/manifest/root.json").read_bytes()
    for command in (
        ("publish", dist / "vllm-1.0.dev1+cpu-py3-none-any.whl", "--no-verify", "toys", "--channel", "0.9.2"),
        (
            "publish",
            dist / "vllm-1.0.dev1+cpu-py3-none-any.whl",
            "--no-verify",
            "toys",
            "--channel",
            "v0.9.1",
        ),
        ("promote", "1.0.dev1", "--channel", "0.9.2"),
        ("promote", "1.0.dev1", "--channel", "0.9.2", "--dry-run"),
    ):
        code, _, err = types(*command, "--to", "index")
        assert code == errors.PublishRefused.exit_code, (command, err)
        assert "1.0.dev1" in err
        assert "next:" in err
    assert Path("index/manifest/root.json").read_bytes() == before
    # A line of versions, a date, and its own version are well.
    for channel in ("0.9", "2026-11", "0.9.2"):
        assert _toy(types, dist / "vllm-0.9.2+cpu-py3-none-any.whl", "--channel", channel)[0] == 0
    assert versions(index, "0.9.2") == {"0.9.2+cpu", "0.9.2+cu130"}


def test_a_misspelt_channel_is_pointed_out(index: Types, types: Types, dist: Path) -> None:
    wheel = dist / "vllm-0.9.2+cpu-py3-none-any.whl"
    code, _, err = _toy(types, wheel, "--channel", "relase")
    assert code == 0
    assert "relase is a new channel (did you mean release?)" in err
    assert "new channel" not in _toy(types, wheel, "--channel", "relase")[2]
    assert "new channel" not in _toy(types, wheel, "--channel", "customer")[2]
    assert "did you mean customer" in _toy(types, wheel, "--channel", "custmer")[2]
    code, out, _ = index("promote", "1.0.dev1", "--channel", "relesae", "--dry-run")
    assert code == 0
    assert "a new channel (did you mean release" in out
    assert "new channel" not in index("promote", "1.0.dev1", "--channel", "release", "--dry-run")[1]


def test_a_misspelt_first_channel_is_pointed_out(types: Types, dist: Path) -> None:
    err = _toy(types, dist / "vllm-0.9.2+cpu-py3-none-any.whl", "--channel", "nigthly")[2]
    assert "did you mean nightly" in err


def test_nothing_is_said_to_be_uploaded_that_is_there(index: Types, types: Types, dist: Path) -> None:
    wheel = dist / "vllm-0.9.2+cpu-py3-none-any.whl"
    assert "Uploading" not in _toy(types, wheel)[2]
    assert "Uploading" not in _toy(types, wheel, "--channel", "customer")[2]


def test_what_became_of_a_wheel_names_all_its_channels(index: Types, types: Types, dist: Path) -> None:
    out = _toy(types, dist / "vllm-0.9.2+cpu-py3-none-any.whl", "--channel", "customer")[1]
    assert "in 0.9.2, customer, release" in out


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"revision": 1}', "\x00"])
def test_a_damaged_root_says_how_it_is_made_anew(index: Types, content: str) -> None:
    Path("index/manifest/root.json").write_text(content)
    for command in (("list",), ("rebuild",), ("yank", "0.9.2", "--reason", "x")):
        code, _, err = index(*command)
        assert code == errors.IndexDamaged.exit_code
        assert "rebuild --from-shards --to" in err
        assert "validation error" not in err
        assert "index" in err.partition("rebuild --from-shards --to")[2]
    assert index("rebuild", "--from-shards")[0] == 0
    assert index("check", "-q")[0] == 0


def test_prune_where_nothing_may_be_written(index: Types, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(tempfile, "NamedTemporaryFile", refuse)
    monkeypatch.setattr(tempfile, "mkstemp", refuse)
    code, _, err = index("prune", "--keep", "9")
    assert code == errors.NotWritable.exit_code
    assert "--workspace" not in err
    assert "--to" in err


def test_the_cure_for_a_damaged_wheel_can_be_typed(index: Types) -> None:
    wheel = next(Path("index/files").rglob("vllm-0.9.2+cpu-*.whl"))
    wheel.write_bytes(b"damaged")
    out = " ".join(index("check")[1].split())
    command = out.partition("index yank ")[2].partition("`")[0].split()
    assert "--to" in command
    assert "--reason" in command


def test_an_empty_index_says_where_to_publish(types: Types, dist: Path) -> None:
    wheel = dist / "vllm-0.9.2+cpu-py3-none-any.whl"
    assert _toy(types, wheel, "--group", "g", "--expect", "cpu,cu130")[0] == 0
    assert f"--to {Path('index').absolute()}" in types("list", "--to", "index")[1]


def test_of_one_moment_the_higher_version_is_the_newest(types: Types, tmp_path: Path) -> None:
    wheels = [make_wheel(tmp_path / "dist", "vllm", f"{version}+cpu") for version in ("0.9.2", "0.14.1")]
    assert types("publish", *wheels, "--to", "index", "--no-verify", "toys")[0] == 0
    listed = json.loads(types("list", "--to", "index", "--channel", "release", "--json")[1])
    assert listed["channels"][0]["version"] == "0.14.1+cpu"


def test_an_object_store_is_not_served_from_here(types: Types) -> None:
    code, _, err = types("serve", "s3://bucket/team")
    assert code == errors.SettingsError.exit_code
    assert "s3:/bucket" not in err
    assert "json/" in err


def test_what_is_to_be_typed_next_is_quoted_for_a_shell(types: Types, dist: Path) -> None:
    import shlex

    place = "my wheels/für uns"
    _, _, err = types("list", "--to", place)
    assert shlex.split(err.partition("`")[2].partition("`")[0])[-2:] == ["--to", place]
    wheel = dist / "vllm-0.9.2+cpu-py3-none-any.whl"
    assert types("publish", wheel, "--to", place, "--no-verify", "toys")[0] == 0
    Path(place, "release/cpu/index.html").unlink()
    out = " ".join(types("check", "--to", place)[1].split())
    command = next(one for one in out.split("`") if one.startswith("vllm-builder index rebuild"))
    assert types(*shlex.split(command)[2:])[0] == 0
    assert types("check", "--to", place)[0] == 0


def test_what_is_served_is_told_without_emptied_channels(index: Types) -> None:
    assert "nightly/cpu/" in addresses(Path("index"), most=9)
    for version in ("1.0.dev0", "1.0.dev1"):
        index("promote", version)
    found = addresses(Path("index"), most=9)
    assert "release/cpu/" in found
    assert "nightly/cpu/" not in found


def test_a_wrong_address_of_a_server_is_named_with_its_port(types: Types) -> None:
    assert "http://127.0.0.1:9/team/ is a server" in types("list", "--to", "http://127.0.0.1:9/team/")[2]
    err = types("list", "--to", "https://me:secret@wheels.invalid:99/x?token=abc")[2]
    assert "https://wheels.invalid:99/x is a server" in err
    assert "secret" not in err
    assert "abc" not in err


def test_one_file_is_not_called_files(index: Types) -> None:
    Path("index/files/notes.txt").write_text("mine")
    assert "1 file is none of this index" in " ".join(index("check")[1].split())


@pytest.mark.parametrize("below", ["release", "release/cpu", "stable", "stable/new/one", "files"])
def test_an_index_inside_an_index_is_refused(index: Types, types: Types, dist: Path, below: str) -> None:
    before = sorted(Path("index").rglob("*"))
    wheel = dist / "vllm-0.9.2+cpu-py3-none-any.whl"
    for command in (
        ("publish", wheel, "--no-verify", "toys"),
        ("list",),
        ("rebuild",),
        ("rebuild", "--from-shards"),
    ):
        code, _, err = types(*command, "--to", f"index/{below}")
        assert code == errors.SettingsError.exit_code, err
        assert "inside the index" in err
        assert f"--to {Path('index').absolute()}" in err
        assert "--from-shards" not in err
    assert sorted(Path("index").rglob("*")) == before
    Path("link").symlink_to("index")
    assert types("publish", wheel, "--no-verify", "toys", "--to", f"link/{below}")[0] == code


def test_an_index_inside_an_index_is_refused_on_an_object_store(
    types: Types, dist: Path, s3_url: str
) -> None:
    wheel = dist / "vllm-0.9.2+cpu-py3-none-any.whl"
    assert types("publish", wheel, "--no-verify", "toys", "--to", f"{s3_url}/team")[0] == 0
    for below in ("release", "sub/one"):
        code, _, err = types("publish", wheel, "--no-verify", "toys", "--to", f"{s3_url}/team/{below}")
        assert code == errors.SettingsError.exit_code, err
        assert f"--to {s3_url}/team" in err
    # Beside it is well.
    assert types("publish", wheel, "--no-verify", "toys", "--to", f"{s3_url}/team2")[0] == 0


def test_rebuild_leaves_an_index_alone_that_was_copied_into_it(index: Types, types: Types) -> None:
    shutil.copytree("index", "other")
    shutil.copytree("other", "index/kept")
    assert index("rebuild")[0] == 0
    assert types("check", "--to", "index/kept")[0] == 0
    code, out, _ = index("check")
    assert code == 0, out
    assert "none of this index" in " ".join(out.split())
    assert "index rebuild" not in out


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("s3:/bucket/team", "s3://bucket/team"),
        ("s3:bucket/team", "s3://bucket/team"),
        ("https:/devpi.example/team/", "https://devpi.example/team/"),
        ("devpi.example:3141/team/nightly", "https://devpi.example:3141/team/nightly"),
        ("localhost:8080", "https://localhost:8080"),
    ],
)
def test_an_address_that_lacks_something_is_no_folder(
    types: Types, dist: Path, place: str, said: str
) -> None:
    wheel = dist / "vllm-0.9.2+cpu-py3-none-any.whl"
    for command in (("publish", wheel, "--no-verify", "toys"), ("list",)):
        code, _, err = types(*command, "--to", place)
        assert code == errors.SettingsError.exit_code
        assert said in err
        assert f"./{place}" in err
    assert not list(Path().glob("*:*"))
    # Whoever means a folder says so.
    assert types("publish", wheel, "--no-verify", "toys", "--to", f"./{place}")[0] == 0
