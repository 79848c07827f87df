"""The pages that pip and uv read: complete, the same in HTML and JSON, and nothing of a publisher's text breaks out."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pypi_simple import DistributionPackage, ProjectPage

from vllm_builder.index import layout, pages
from vllm_builder.index.manifest import Snapshot
from vllm_builder.index.model import File, Page, Root, Shard, ShardRef, Yanked
from vllm_builder.index.storage.folder import Folder

AT = datetime(2026, 11, 21, 10, 30, 15, 250000, tzinfo=UTC)
ADDRESS = "https://wheels.example/team/nightly/cu130/vllm/"


def file_of(
    version: str = "0.9.2+cu130", *, reason: str | None = None, python: str = ">=3.9,<3.13", **other: Any
) -> File:
    name = f"vllm-{version}-cp38-abi3-linux_x86_64.whl"
    return File(
        filename=name,
        project="vllm",
        version=version,
        sha256=hashlib.sha256(name.encode()).hexdigest(),
        size=12345,
        uploaded=AT,
        metadata_sha256=hashlib.sha256(b"M" + name.encode()).hexdigest(),
        requires_python=python,
        channels=("nightly",),
        yanked=None if reason is None else Yanked(reason=reason, at=AT),
        **other,
    )


def snapshot_of(*files: File, revision: int = 7) -> Snapshot:
    """A manifest that lies nowhere."""
    ref = ShardRef(project="vllm", variant="cu130", sha256="0" * 64, revision=revision, files=len(files))
    snapshot = Snapshot(Folder(Path("/nowhere")), Root(revision=revision, updated=AT, shards=(ref,)), None)
    snapshot._shards["vllm", "cu130"] = Shard(project="vllm", variant="cu130", revision=revision, files=files)
    return snapshot


def render(*files: File) -> tuple[str, dict[str, Any]]:
    text, data = pages.render(snapshot_of(*files), Page(channel="nightly", variant="cu130", project="vllm"))
    return text.decode(), json.loads(data)


def read_html(text: str) -> ProjectPage:
    return ProjectPage.from_html("vllm", text, base_url=ADDRESS)


def read_json(found: dict[str, Any]) -> ProjectPage:
    return ProjectPage.from_json_data(found, base_url=ADDRESS)


def told_by_both(package: DistributionPackage) -> dict[str, object]:
    """All that HTML can say of a file."""
    return {
        "filename": package.filename,
        "url": package.url.partition("#")[0],
        "digests": package.digests,
        "requires_python": package.requires_python,
        "yanked": package.is_yanked,
        "reason": package.yanked_reason or None,
        "metadata": package.has_metadata,
        "metadata_digests": package.metadata_digests,
        "metadata_url": package.metadata_url,
    }


class Tags(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, tuple[str, ...]]] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, tuple(name for name, _ in attrs)))


def test_json_says_all_of_every_file() -> None:
    plain, yanked = file_of(), file_of("0.9.3.dev1+cu130", reason="wrong torch", python="")
    _, found = render(plain, yanked)
    assert found["meta"]["api-version"] == "1.1"
    assert found["name"] == "vllm"
    assert found["versions"] == ["0.9.2+cu130", "0.9.3.dev1+cu130"]
    first, second = found["files"]
    assert first == {
        "filename": plain.filename,
        "url": f"../../../files/vllm/0.9.2%2Bcu130/{plain.sha256}/vllm-0.9.2%2Bcu130-cp38-abi3-linux_x86_64.whl",
        "hashes": {"sha256": plain.sha256},
        "requires-python": ">=3.9,<3.13",
        "core-metadata": {"sha256": plain.metadata_sha256},
        "size": 12345,
        "upload-time": "2026-11-21T10:30:15.250000Z",
    }
    assert second["yanked"] == "wrong torch"
    assert "requires-python" not in second


def test_both_forms_say_the_same_to_a_client() -> None:
    text, found = render(
        file_of(),
        file_of("0.9.3+cu130", reason="a < b & 'c' \"d\""),
        file_of("1!2.0", python="!=3.10.*,>=3.9"),
    )
    by_html, by_json = read_html(text), read_json(found)
    assert [told_by_both(p) for p in by_html.packages] == [told_by_both(p) for p in by_json.packages]
    assert by_json.packages[0].url.startswith("https://wheels.example/team/files/vllm/0.9.2%2Bcu130/")
    assert by_json.packages[0].upload_time == AT
    assert by_html.repository_version == by_json.repository_version == "1.1"


@given(st.text())
@example('"><script>alert(1)</script>')
@example('\'" onmouseover=alert(1) x="')
@example("<!-- --> ]]> </a></body> &amp; &#34; &lt;")
@example("false")
@example("")
@example(" \t\r\n ")
@example("\x1b[31mred\x1b[0m\x07")
@example("\u202egnp.exe\u2066")
@example("a\ufffe\ufdd0\U0010ffffb\x00c\x85d\u2028e")
@example("日本語 😀\u200d💻 ä")
@example('"url": "../')
def test_any_reason_is_one_line_of_text_in_both(reason: str) -> None:
    plain = Tags(render(file_of(reason="why"))[0]).found
    text, found = render(file_of(reason=reason))
    (html_file,), (json_file,) = read_html(text).packages, read_json(found).packages
    told = pages.reason_text(reason)
    assert html_file.is_yanked
    assert json_file.is_yanked
    assert (html_file.yanked_reason or "") == (json_file.yanked_reason or "") == told
    assert Tags(text).found == plain
    assert not any(ord(c) < 32 or 127 <= ord(c) < 160 for c in told)
    if reason.isprintable():
        assert told.split() == reason.split()


@given(python=st.text(alphabet=st.characters(blacklist_categories=["Cs", "Cc"]), max_size=30))
def test_whatever_a_wheel_requires_of_python_stays_in_its_attribute(python: str) -> None:
    plain = Tags(render(file_of(python=">=3"))[0]).found
    text, found = render(file_of(python=python or ">=3"))
    assert Tags(text).found == plain
    assert found["files"][0]["requires-python"] == (python or ">=3")


def test_the_library_that_writes_the_pages_reads_them_back() -> None:
    from simple_repository.parser import parse_html_project_page, parse_json_project_page

    text, found = render(file_of(), file_of("0.9.3+cu130", reason="<wrong>"))
    by_html = parse_html_project_page(text, "vllm")
    by_json = parse_json_project_page(json.dumps(found))
    assert by_json.versions == {"0.9.2+cu130", "0.9.3+cu130"}
    assert [f.size for f in by_json.files] == [12345, 12345]
    assert [f.yanked for f in by_html.files] == [f.yanked for f in by_json.files] == [None, "<wrong>"]
    assert [f.dist_info_metadata for f in by_html.files] == [f.dist_info_metadata for f in by_json.files]


def test_the_same_state_gives_the_same_bytes() -> None:
    files = [file_of(f"0.9.{n}+cu130") for n in range(40)]
    page = Page(channel="nightly", variant="cu130", project="vllm")
    assert pages.render(snapshot_of(*files), page) == pages.render(snapshot_of(*files), page)


def test_a_page_tells_its_revision_within_what_is_read_of_it() -> None:
    for page in (
        Page(channel="nightly", variant="cu130", project="vllm"),
        Page(channel="nightly", variant="cu130"),
    ):
        for data in pages.render(snapshot_of(file_of(), revision=123456), page):
            assert pages.revision_of(data[:1024]) == 123456


def test_the_list_of_projects() -> None:
    text, data = pages.render(snapshot_of(file_of()), Page(channel="nightly", variant="cu130"))
    assert json.loads(data)["projects"] == [{"name": "vllm"}]
    assert b'<a href="vllm/">vllm</a>' in text
    text, data = pages.render(snapshot_of(file_of()), Page(channel="release", variant="cu130"))
    assert json.loads(data)["projects"] == []
    assert b"<a " not in text


def test_only_the_files_of_the_channel() -> None:
    released = file_of("0.9.3+cu130").model_copy(update={"channels": ("release",)})
    _, found = render(file_of(), released)
    assert [f["filename"] for f in found["files"]] == [file_of().filename]
    assert found["versions"] == ["0.9.2+cu130"]


@given(
    st.one_of(st.from_regex(r"[a-zA-Z0-9_.~/+!-]*", fullmatch=True), st.text(st.characters(codec="utf-8")))
)
def test_a_link_is_percent_encoded(key: str) -> None:
    link = layout.relative(key, "nightly/cu130/vllm/")
    assert link == "../../../" + quote(key, safe="/")
    assert not set(link) & set(" +\"'<>&#?:")


class SlashKeys(Folder):
    slash_keys = True


@pytest.mark.parametrize("project", ["vllm", ""])
def test_links_of_the_json_root_lead_to_the_same_files(project: str) -> None:
    snapshot = snapshot_of(file_of(), file_of("0.9.3+cu130", reason='"url": "../'))
    page = Page(channel="nightly", variant="cu130", project=project)
    found = {key: data for key, data, _ in pages.objects(SlashKeys(Path("/nowhere")), snapshot, page)}
    folder = layout.folder_of("nightly", "cu130", project)
    signposts = {"nightly/", "nightly/index.html"} if not project else set()
    assert set(found) == signposts | {
        folder,
        folder + "index.html",
        folder + "index.json",
        "json/" + folder,
        "json/" + folder + "index.html",
    }
    if not project:
        assert found["json/" + folder] == found[folder + "index.json"]
        return
    base = "https://wheels.example/team/"
    one = ProjectPage.from_json_data(json.loads(found["json/" + folder]), base_url=base + "json/" + folder)
    other = ProjectPage.from_json_data(json.loads(found[folder + "index.json"]), base_url=base + folder)
    assert one.packages == other.packages
    assert pages.revision_of(found["json/" + folder]) == 7


def test_an_address_without_its_variant_leads_to_the_page_for_people(tmp_path: Path) -> None:
    storage, page = SlashKeys(tmp_path), Page(channel="nightly", variant="cu130")
    plain = Folder(tmp_path)
    pages.write(plain, snapshot_of(file_of()), [page])
    first = plain.read("nightly/index.html")
    assert first is not None
    assert b'<a href="../index.html#channel=nightly">' in first.data
    pages.write(plain, snapshot_of(file_of(), revision=8), [page])
    assert plain.read("nightly/index.html") == first
    kinds = {key: kind for key, _, kind in pages.objects(storage, snapshot_of(file_of()), page)}
    assert kinds["nightly/"] == pages.HTML_TYPE


def test_a_page_is_only_replaced_by_a_later_one(tmp_path: Path) -> None:
    storage, page = Folder(tmp_path), Page(channel="nightly", variant="cu130", project="vllm")
    new = snapshot_of(file_of(), file_of("0.9.3+cu130"), revision=9)
    assert pages.write(storage, new, [page]) == 2
    assert pages.write(storage, snapshot_of(file_of(), revision=8), [page]) == 0
    assert pages.write(storage, new, [page]) == 0
    there = storage.read("nightly/cu130/vllm/index.json")
    assert there is not None
    assert there.data == pages.render(new, page)[1]
