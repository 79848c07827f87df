"""What is let into an index, and what is not."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from publish_helpers import Publisher, key_pair, record

import vllm_builder
from vllm_builder.errors import ProvenanceError, PublishRefused, SettingsError, WheelError
from vllm_builder.events import StageFinished, StageStarted
from vllm_builder.index.candidates import digest_of
from vllm_builder.index.manifest import load
from vllm_builder.index.model import File
from vllm_builder.index.provenance.checking import check_provenance
from vllm_builder.index.provenance.signing import load_public_keys
from vllm_builder.index.storage import open_storage
from vllm_builder.stages.verify import verifying
from vllm_builder.stages.verify.model import Finding, Report

Wheels = Callable[..., Path]


def files(folder: Path) -> dict[str, File]:
    snapshot = load(open_storage(str(folder)))
    return {} if snapshot is None else {file.filename: file for _, file in snapshot.files()}


def judged(monkeypatch: pytest.MonkeyPatch, *findings: Finding) -> list[Path]:
    """verify finds this in every wheel; gives the list of those that it was asked about."""
    asked: list[Path] = []
    real = verifying.verify

    def verify(location: Path, *args: object, **more: object) -> Report:
        asked.append(location)
        found = real(location, *args, **more)  # type: ignore[arg-type]
        return found.model_copy(update={"findings": findings})

    monkeypatch.setattr(verifying, "verify", verify)
    return asked


ERROR = Finding(check="rpath", severity="error", what="_C has RPATH /build", cure="Remove it.")
WARNING = Finding(check="size", severity="warning", what="It is large.")


def test_a_good_wheel_is_published_and_found(publisher: Publisher, wheels: Wheels) -> None:
    result = publisher(wheels("demo", "1.0+cpu"), channels=("nightly",))
    (one,) = result.wheels
    assert (one.outcome, one.variant, one.channels) == ("published", "cpu", ("1.0", "nightly"))
    assert one.checked is not None
    assert one.checked.result == "good"
    assert files(publisher.folder)[one.filename].sha256 == one.sha256
    assert (publisher.folder / "nightly/cpu/demo/index.html").is_file()
    assert [type(event) for event in (publisher.events[0], publisher.events[-1])] == [
        StageStarted,
        StageFinished,
    ]


def test_the_same_bytes_again_are_neither_verified_nor_written(
    publisher: Publisher, wheels: Wheels, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel = wheels()
    publisher(wheel)
    before = {path: path.stat().st_mtime_ns for path in publisher.folder.rglob("*") if path.is_file()}
    asked = judged(monkeypatch, ERROR)
    (one,) = publisher(wheel).wheels
    assert (one.outcome, one.checked, asked) == ("unchanged", None, [])
    assert before == {path: path.stat().st_mtime_ns for path in publisher.folder.rglob("*") if path.is_file()}


def test_other_bytes_under_the_same_name_are_refused_before_anything_is_uploaded(
    publisher: Publisher, wheels: Wheels
) -> None:
    publisher(wheels())
    stored = sorted(publisher.folder.rglob("*.whl"))
    with pytest.raises(PublishRefused, match="another file of the name"):
        publisher(wheels("other"), wheels(body="x = 2\n"))
    assert sorted(publisher.folder.rglob("*.whl")) == stored
    assert set(files(publisher.folder)) == {"demo-1.0-py3-none-any.whl"}


def test_two_files_of_one_name_in_one_call(publisher: Publisher, wheels: Wheels) -> None:
    with pytest.raises(PublishRefused, match="Two different files"):
        publisher(wheels(), wheels(body="x = 2\n"))
    same = wheels()
    assert len(publisher(same, same).wheels) == 1


def test_a_bad_wheel_is_refused_with_its_findings_and_nothing_of_the_call_is_published(
    publisher: Publisher, wheels: Wheels, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged(monkeypatch, ERROR, WARNING)
    with pytest.raises(PublishRefused) as caught:
        publisher(wheels("one"), wheels("two"))
    assert caught.value.exit_code == 91
    assert [line.split(": ")[0] for line in caught.value.details] == [
        "one-1.0-py3-none-any.whl",
        "two-1.0-py3-none-any.whl",
    ]
    assert "RPATH /build" in caught.value.details[0]
    assert files(publisher.folder) == {}


def test_a_reason_lets_a_bad_wheel_in_and_is_kept(
    publisher: Publisher, wheels: Wheels, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = judged(monkeypatch, ERROR)
    (one,) = publisher(wheels(), no_verify=" tried by hand ").wheels
    kept = files(publisher.folder)[one.filename].checked
    assert (kept.result, kept.reason, asked) == ("not verified", "tried by hand", [])
    assert "tried by hand" in publisher.told


def test_a_reason_that_says_nothing_is_none(publisher: Publisher, wheels: Wheels) -> None:
    with pytest.raises(SettingsError, match="Why"):
        publisher(wheels(), no_verify=" ")


def test_warnings_are_counted_and_told(
    publisher: Publisher, wheels: Wheels, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged(monkeypatch, WARNING, WARNING)
    (one,) = publisher(wheels()).wheels
    kept = files(publisher.folder)[one.filename].checked
    assert (kept.result, kept.warnings) == ("warnings", 2)
    assert "It is large." in publisher.told


def test_what_was_verified_is_not_verified_again_but_another_file_is(
    publisher: Publisher, wheels: Wheels, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vllm_builder.fs import sha256_file

    built, other = wheels("one"), wheels("two")
    asked = judged(monkeypatch)
    publisher(built, other, verified={sha256_file(built): 3})
    assert asked == [other]
    assert files(publisher.folder)[built.name].checked.warnings == 3


def test_a_wheel_of_some_extensions_is_refused(publisher: Publisher, wheels: Wheels) -> None:
    partial = record(extensions=("_C",), device="empty", archs=(), toolkit="", torch="")
    with pytest.raises(PublishRefused, match="not what was asked for"):
        publisher(wheels("vllm", "1.0+empty", record=partial))


def test_what_is_no_wheel_is_said_before_anything_is_published(
    publisher: Publisher, wheels: Wheels, tmp_path: Path
) -> None:
    broken = tmp_path / "broken-1.0-py3-none-any.whl"
    broken.write_bytes(b"not a zip")
    with pytest.raises(WheelError):
        publisher(wheels(), broken)
    assert files(publisher.folder) == {}


def test_a_group_waits_for_its_variants(publisher: Publisher, wheels: Wheels) -> None:
    more = {"group": "n1", "expects": ("cu129", "cu130"), "channels": ("nightly",)}
    (first,) = publisher(wheels(version="1.0+cu129"), **more).wheels
    assert (first.outcome, first.waits_for) == ("staged", ("cu130",))
    assert files(publisher.folder) == {}
    assert publisher(wheels(version="1.0+cu130"), **more).wheels[0].outcome == "published"
    assert len(files(publisher.folder)) == 2


@pytest.mark.parametrize(
    "more",
    [{"channels": ("../up",)}, {"variant": "files"}, {"expects": ("cu130",)}, {"channels": ("",)}],
)
def test_names_that_cannot_be_used(publisher: Publisher, wheels: Wheels, more: dict[str, object]) -> None:
    with pytest.raises(SettingsError):
        publisher(wheels(), **more)
    assert not publisher.folder.exists()


# Provenance ----------------------------------------------------------------------------------------
@pytest.fixture
def built(wheels: Wheels) -> Path:
    """A wheel with a build record that verify has nothing against."""
    return wheels("vllm", "1.0+cu130", record=record())


def test_the_provenance_lies_beside_the_wheel_and_is_in_the_manifest(
    publisher: Publisher, built: Path, tmp_path: Path
) -> None:
    private, public = key_pair(tmp_path)
    (one,) = publisher(built, no_verify="a toy", sign_key=private).wheels
    assert one.provenance == "signed"
    file = files(publisher.folder)[one.filename]
    data = (publisher.folder / file.provenance_key).read_bytes()
    assert file.provenance_sha256 == digest_of(data)
    keys = load_public_keys([public])
    assert one.keyid == keys[0].keyid
    assert check_provenance(data, filename=one.filename, sha256=file.sha256, keys=keys) == ()


def test_signed_on_an_object_store(
    publisher: Publisher, built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from index_helpers import s3_client, s3_server, use_server

    private, public = key_pair(tmp_path)
    with s3_server() as server:
        to = use_server(server, monkeypatch)
        (one,) = publisher(built, to=to, no_verify="a toy", sign_key=private).wheels
        assert (one.outcome, one.provenance) == ("published", "signed")
        assert publisher(built, to=to, sign_key=private).wheels[0].outcome == "unchanged"
        listed = s3_client(server).list_objects_v2(Bucket=server.bucket)["Contents"]
        (key,) = (found["Key"] for found in listed if found["Key"].endswith(".intoto.jsonl"))
        data = s3_client(server).get_object(Bucket=server.bucket, Key=key)["Body"].read()
    keys = load_public_keys([public])
    assert check_provenance(data, filename=one.filename, sha256=one.sha256, keys=keys) == ()


def test_without_a_key_the_provenance_says_that_it_is_not_signed(publisher: Publisher, built: Path) -> None:
    assert publisher(built, no_verify="a toy").wheels[0].provenance == "unsigned"
    assert "not signed" in publisher.told
    assert json.loads(next(publisher.folder.rglob("*.intoto.jsonl")).read_text())["signatures"] == []


def test_what_is_told_of_the_provenance_is_what_lies_there(
    publisher: Publisher, built: Path, tmp_path: Path
) -> None:
    """A publishing that was broken off behind the upload left its own, and the first one stays."""
    publisher(built, no_verify="a toy")
    private, _ = key_pair(tmp_path)
    (again,) = publisher(built, no_verify="a toy", sign_key=private).wheels
    assert (again.outcome, again.provenance, again.keyid) == ("unchanged", "unsigned", "")
    assert "not signed by this key" in publisher.told
    shutil.copytree(publisher.folder / "files", tmp_path / "broken-off" / "files")
    publisher.folder = tmp_path / "broken-off"
    (anew,) = publisher(built, no_verify="a toy", sign_key=private).wheels
    assert (anew.outcome, anew.provenance) == ("published", "unsigned")
    assert "not signed by this key" in publisher.told


def test_the_same_key_again_is_no_matter(publisher: Publisher, built: Path, tmp_path: Path) -> None:
    private, _ = key_pair(tmp_path, "p256")  # its signatures differ each time
    publisher(built, no_verify="a toy", sign_key=private)
    (again,) = publisher(built, no_verify="a toy", sign_key=private).wheels
    assert (again.outcome, again.provenance) == ("unchanged", "signed")
    assert "not signed" not in publisher.told


def test_provenance_can_be_left_out(publisher: Publisher, built: Path) -> None:
    assert publisher(built, no_verify="a toy", provenance=False).wheels[0].provenance == "none"
    assert not list(publisher.folder.rglob("*.intoto.jsonl"))


def test_a_wheel_of_others_has_no_provenance_and_that_is_said(publisher: Publisher, wheels: Wheels) -> None:
    assert publisher(wheels()).wheels[0].provenance == "none"
    assert "No provenance for demo-1.0" in publisher.told
    assert not list(publisher.folder.rglob("*.intoto.jsonl"))


def test_a_key_that_cannot_be_used_stops_before_anything_is_read(
    publisher: Publisher, tmp_path: Path
) -> None:
    with pytest.raises(ProvenanceError):
        publisher(tmp_path / "not-there.whl", sign_key=tmp_path / "no.pem")


def test_from_python(wheels: Wheels, tmp_path: Path) -> None:
    result = vllm_builder.publish(
        wheels(), to=tmp_path / "index", channel="nightly", cache_dir=tmp_path / "cache", environ={}
    )
    assert result.wheels[0].channels == ("1.0", "nightly")
