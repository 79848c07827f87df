"""What is written for the page: how much of it a change touches, and what never goes backwards."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from landing_helpers import ENVELOPE, STATEMENT, candidate, put

from vllm_builder.index import landing
from vllm_builder.index.landing import data, html
from vllm_builder.index.manifest import Draft, Snapshot, load
from vllm_builder.index.model import Facts, File, Shard
from vllm_builder.index.pages import unmarked
from vllm_builder.index.storage.folder import Folder
from vllm_builder.index.transaction import change
from vllm_builder.stages.plan.compatibility import compatibility


def read(storage: Folder, key: str) -> Any:
    """What a data file holds."""
    text = (storage.root / key).read_text("ascii")
    assert text.startswith("vllmIndex.take(")
    assert text.endswith(");\n")
    return json.loads(text.removeprefix("vllmIndex.take(").removesuffix(");\n"))


def loaded(storage: Folder) -> Snapshot:
    snapshot = load(storage)
    assert snapshot is not None
    return snapshot


def landing_files(storage: Folder) -> dict[str, bytes]:
    paths = [storage.root / "index.html", *(storage.root / "landing").rglob("*")]
    return {path.relative_to(storage.root).as_posix(): path.read_bytes() for path in paths if path.is_file()}


def file(version: str = "1.0", channels: tuple[str, ...] = ("release",), **more: Any) -> File:
    name = more.pop("filename", f"demo-{version}-py3-none-any.whl")
    return File(
        filename=name, project="demo", version=version, sha256="a" * 64, size=1, uploaded=datetime.now(UTC),
        metadata_sha256="b" * 64, channels=channels, **more,
    )  # fmt: skip


def test_a_change_writes_what_belongs_to_its_variant_only(tmp_path: Path) -> None:
    storage = Folder(tmp_path / "index")
    for version in ("1.0", "1.1", "1.2"):
        put(
            storage, [candidate(tmp_path, f"{version}+{v}", v, channel="release") for v in ("cu129", "cu130")]
        )
    before = landing_files(storage)
    put(storage, [candidate(tmp_path, "1.3+cu130", "cu130", channel="release")])
    after = landing_files(storage)
    assert {key for key in after if after[key] != before.get(key)} == {
        "index.html",
        "landing/index.js",
        "landing/vllm/cu130/index.html",
        "landing/vllm/cu130/index.js",
        "landing/vllm/cu130/1.3+cu130.js",
    }
    assert set(before) < set(after)
    assert [row[0] for row in read(storage, "landing/vllm/cu130/index.js")["rows"]] == [
        f"{version}+cu130" for version in ("1.0", "1.1", "1.2", "1.3")
    ]


def test_an_older_state_never_replaces_a_newer_one(tmp_path: Path) -> None:
    storage = Folder(tmp_path / "index")
    put(storage, [candidate(tmp_path, "1.0+cpu", "cpu", channel="release")])
    slow = loaded(storage)
    put(storage, [candidate(tmp_path, "1.1+cpu", "cpu", channel="release")])
    before = landing_files(storage)
    assert landing.write(storage, slow, ["vllm 1.0+cpu"]) == 0
    assert landing_files(storage) == before


def test_many_publishers_at_once_leave_the_newest_state(tmp_path: Path) -> None:
    storage = Folder(tmp_path / "index")
    wheels = [
        candidate(tmp_path / f"{n}", f"1.{n}+{v}", v, channel="release")
        for n in range(6)
        for v in ("cpu", "cu130")
    ]
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda one: put(storage, [one]), wheels))
    snapshot = loaded(storage)
    there = landing_files(storage)
    for key, content, _ in landing.objects(storage, snapshot):
        assert unmarked(there.pop(key)) == unmarked(content), key
    assert there == {}


def test_all_of_it_can_be_made_anew_from_the_manifest(tmp_path: Path) -> None:
    storage = Folder(tmp_path / "index")
    put(storage, [candidate(tmp_path, f"1.0+{v}", v, channel="release") for v in ("cpu", "cu130")])
    made = {key: content for key, content, _ in landing.objects(storage, loaded(storage))}
    assert made == landing_files(storage)


def test_a_deleted_version_is_no_longer_told_of(tmp_path: Path) -> None:
    storage = Folder(tmp_path / "index")
    put(storage, [candidate(tmp_path, f"{v}+cpu", "cpu", channel="release") for v in ("1.0", "1.1")])

    def delete(draft: Draft) -> None:
        files = draft.files("vllm", "cpu")
        del files[next(name for name in files if "1.0" in name)]

    change(storage, delete)
    assert [row[0] for row in read(storage, "landing/vllm/cpu/index.js")["rows"]] == ["1.1+cpu"]
    assert read(storage, "landing/vllm/cpu/1.0+cpu.js")["files"] == []
    assert "1.0" not in (storage.root / "landing/vllm/cpu/index.html").read_text().replace("1.1", "")


@pytest.mark.parametrize(
    ("content", "shown"),
    [
        (ENVELOPE, "signed"), (STATEMENT, "unsigned"), (ENVELOPE + "\n" + STATEMENT, "unsigned"), ("not json", "unsigned"),
        ("[]", "unsigned"), (ENVELOPE.replace('[{"sig": "AA=="}]', "[]"), "unsigned"), ("\xff", "unsigned"), ("", "none"),
    ],
)  # fmt: skip
def test_signed_is_what_has_a_signature(tmp_path: Path, content: str, shown: str) -> None:
    storage = Folder(tmp_path / "index")
    put(
        storage,
        [candidate(tmp_path, "1.0+cpu", "cpu", channel="release", provenance=content.encode("latin-1"))],
    )
    assert read(storage, "landing/vllm/cpu/1.0+cpu.js")["files"][0]["provenance"] == shown


@pytest.mark.parametrize(
    ("tags", "requires", "pythons", "machines"),
    [
        ("cp38-abi3-manylinux_2_28_x86_64", ">=3.10,<3.14", ["3.10", "3.11", "3.12", "3.13"], ["x86_64"]),
        ("cp312-cp312-manylinux_2_28_aarch64", "", ["3.12"], ["aarch64"]),
        ("cp312-abi3-linux_x86_64", "", ["3.12", "3.13", "3.14", "3.15"], ["x86_64"]),
        ("cp310.cp311-cp310-manylinux1_x86_64.manylinux_2_5_x86_64", "", ["3.10", "3.11"], ["x86_64"]),
        ("py3-none-any", ">=3.13", ["3.13", "3.14", "3.15"], []),
        ("py2.py3-none-any", "==3.11.*", ["3.11"], []),
        ("py3-none-any", ">=3.14.3", ["3.14", "3.15"], []),
        ("py3-none-any", "no specifier", ["3.9", "3.10", "3.11", "3.12", "3.13", "3.14", "3.15"], []),
        ("cp27-cp27m-linux_x86_64", "", [], ["x86_64"]),
        ("pp310-pypy310_pp73-linux_x86_64", "", [], ["x86_64"]),
        ("cp312-cp312-musllinux_1_2_x86_64", "", ["3.12"], ["x86_64 (musl)"]),
        ("cp312-cp312-macosx_11_0_arm64", "", ["3.12"], ["macOS arm64"]),
        ("cp312-cp312-win_amd64", "", ["3.12"], ["Windows amd64"]),
        ("cp312-cp312-freebsd_14", "", ["3.12"], ["freebsd_14"]),
    ],
)  # fmt: skip
def test_whom_a_wheel_is_for(tags: str, requires: str, pythons: list[str], machines: list[str]) -> None:
    assert data.pythons_and_machines(tags, requires) == (tuple(pythons), tuple(machines))


def test_channels_of_a_version_or_commit_are_not_offered() -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    assert data.named_channels(file("1!2.0+cu130", ("1-2.0", commit, "nightly", "team-a"))) == (
        "nightly",
        "team-a",
    )
    only = Shard(project="demo", variant="cu130", revision=1, files=(file("2.0", ("2.0",)),))
    assert b'"2.0"]]' in data.summary(only, 1)
    both = Shard(project="demo", variant="cu130", revision=1, files=(file("2.0", (commit, "2.0")),))
    assert b'"2.0"]]' in data.summary(both, 1)


def test_equal_values_are_written_once() -> None:
    archs = Facts(archs=("9.0a", "10.0f"))
    files = tuple(file(f"1.{n}", ("nightly", f"1.{n}"), facts=archs) for n in range(500))
    written = data.summary(Shard(project="demo", variant="cu130", revision=1, files=files), 1)
    assert written.count(b"9.0a") == written.count(b"nightly") == 1
    assert len(written) < 40 * 500


@pytest.mark.parametrize("hostile", ["</script><script>alert(1)</script>", "\u2028\u2029", "\ud800", "é\x00"])
def test_any_text_is_one_string_of_ascii(hostile: str) -> None:
    written = data.script(7, kind="version", text=hostile)
    assert b"<" not in written
    assert written.isascii()
    assert len(written.splitlines()) == 1
    assert json.loads(written[len("vllmIndex.take(") : -3])["text"] == hostile


def test_what_is_shipped_names_no_host_and_no_storage_of_its_own(tmp_path: Path) -> None:
    script, style = html.assets()
    for content in (script.content, style.content):
        assert not any(word in content for word in (b"http://", b"https://", b"url("))
        assert not any(
            word in content for word in (b"localStorage", b"innerHTML", b"eval(", b"fetch(", b"@import")
        )


def test_gpus_are_those_that_the_planner_knows() -> None:
    names: list[str] = [name for one in data.gpus() for name in one["names"]]
    assert len(names) == len(set(names))
    known: Callable[[str], bool] = compatibility().architectures.__contains__
    for one in data.gpus():
        # The planner knows what vLLM was ever compiled for; people ask for older ones, too.
        assert known(one["capability"]) or one["family"] == "Pascal"
