"""setup.cfg, new files, exact text and unified diffs."""

from __future__ import annotations

from configparser import ConfigParser
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from patch_helpers import contents, run, write

from vllm_builder.errors import PatchFailed, PatchMiss, PatchSetError
from vllm_builder.stages.patch import load

INDEX = {"action": "set_cfg_key", "section": "easy_install", "key": "index_url", "value": "http://m/simple"}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (None, "[easy_install]\nindex_url = http://m/simple\n"),
        ("", "[easy_install]\nindex_url = http://m/simple\n"),
        (
            "[egg_info]\ntag_build = \ntag_date = 0\n\n",
            "[egg_info]\ntag_build = \ntag_date = 0\n\n[easy_install]\nindex_url = http://m/simple\n",
        ),
        (
            "; c\n[easy_install]\nindex_url=http://old\n  # more\nother: 1 \n[z]",
            "; c\n[easy_install]\nindex_url = http://m/simple\n  # more\nother: 1 \n[z]",
        ),
        ("[a]\r\nx=1", "[a]\r\nx=1\r\n[easy_install]\r\nindex_url = http://m/simple\r\n"),
    ],
)
def test_a_cfg_key_is_set_and_the_rest_stays(tmp_path: Path, before: str | None, after: str) -> None:
    if before is not None:
        write(tmp_path, {"setup.cfg": before})
    run(tmp_path, INDEX)
    assert contents(tmp_path)["setup.cfg"].decode() == after
    parser = ConfigParser()
    parser.read_string(after)
    assert parser["easy_install"]["index_url"] == "http://m/simple"


def test_a_cfg_key_that_is_so_already(tmp_path: Path) -> None:
    write(tmp_path, {"setup.cfg": "[easy_install]\nindex_url:http://m/simple\n"})
    assert [entry.status for entry in run(tmp_path, INDEX).entries] == ["already"]


def test_a_cfg_file_that_is_none(tmp_path: Path) -> None:
    write(tmp_path, {"setup.cfg": "no section\n"})
    with pytest.raises(PatchFailed, match=r"setup\.cfg"):
        run(tmp_path, INDEX)


def test_without_create_a_missing_cfg_key_is_a_miss(tmp_path: Path) -> None:
    with pytest.raises(PatchMiss):
        run(tmp_path, {**INDEX, "create": False})
    write(tmp_path, {"setup.cfg": "[easy_install]\n"})
    with pytest.raises(PatchMiss):
        run(tmp_path, {**INDEX, "create": False})


_LINES = st.lists(
    st.sampled_from(["[a]", "[b]", "x = 1", "y: 2 ", "# c", "; d", "", "   ", "long =\n  one\n  two"]),
    max_size=8,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(_LINES, st.sampled_from(["\n", "\r\n"]), st.booleans())
def test_cfg_lines_keep_their_bytes(tmp_path: Path, lines: list[str], end: str, last: bool) -> None:
    text = "[top]\n" + "\n".join(lines) + ("\n" if last else "")
    try:
        ConfigParser(strict=True).read_string(text)
    except Exception:  # noqa: BLE001  # a duplicate section: not what this test is about
        return
    before = text.replace("\n", end).encode()
    write(tmp_path, {"setup.cfg": before})
    (tmp_path / ".vllm-builder-patches.json").unlink(missing_ok=True)
    run(tmp_path, INDEX)
    after = contents(tmp_path)["setup.cfg"]
    kept = [
        line for line in after.splitlines() if line not in (b"[easy_install]", b"index_url = http://m/simple")
    ]
    assert kept == before.splitlines()
    assert after.startswith(before)


def test_a_file_is_created_once(tmp_path: Path) -> None:
    operation = {"action": "create_file", "file": "new/dir/x.h", "content": "one\n"}
    assert run(tmp_path, operation).entries[0].after == ("one",)
    assert (tmp_path / "new/dir/x.h").read_text() == "one\n"
    assert run(tmp_path, operation).entries[0].status == "already"


def test_a_file_with_another_content_is_not_overwritten(tmp_path: Path) -> None:
    write(tmp_path, {"x": "mine\n"})
    operation = {"action": "create_file", "file": "x", "content": "one\n"}
    with pytest.raises(PatchFailed, match="another content"):
        run(tmp_path, operation)
    assert (tmp_path / "x").read_text() == "mine\n"
    run(tmp_path, {**operation, "overwrite": True})
    assert (tmp_path / "x").read_text() == "one\n"


def test_exact_text_is_replaced(tmp_path: Path) -> None:
    write(tmp_path, {"a.cu": "cub::Sum{};\nx\ncub::Sum{}\n"})
    run(
        tmp_path,
        {"action": "replace_text", "file": "a.cu", "find": "cub::Sum{}", "replace": "S()", "count": 2},
    )
    assert contents(tmp_path)["a.cu"] == b"S();\nx\nS()\n"


def test_another_count_is_a_miss(tmp_path: Path) -> None:
    write(tmp_path, {"a.cu": "x x x\n"})
    with pytest.raises(PatchMiss) as miss:
        run(tmp_path, {"action": "replace_text", "file": "a.cu", "find": "x", "replace": "y", "count": 2})
    assert "3 times" in miss.value.why
    assert contents(tmp_path, own=True) == {"a.cu": b"x x x\n"}


def test_a_misspelt_text_is_a_miss_even_where_the_new_one_stands(tmp_path: Path) -> None:
    write(tmp_path, {"a.cmake": "set(A OFF)\n"})
    with pytest.raises(PatchMiss):
        run(tmp_path, {"action": "replace_text", "file": "a.cmake", "find": "TRU", "replace": "OFF"})


def test_a_text_inside_its_replacement_is_replaced_once(tmp_path: Path) -> None:
    write(tmp_path, {"a.h": "#include <a>\n"})
    operation = {"action": "replace_text", "file": "a.h", "find": "<a>", "replace": "<a>\n#include <b>"}
    run(tmp_path, operation)
    (tmp_path / ".vllm-builder-patches.json").unlink()
    assert run(tmp_path, operation).entries[0].status == "already"
    assert contents(tmp_path)["a.h"] == b"#include <a>\n#include <b>\n"


def test_text_over_lines_is_found_in_a_crlf_file(tmp_path: Path) -> None:
    write(tmp_path, {"a.h": b"one\r\ntwo\r\nthree\r\n"})
    run(tmp_path, {"action": "replace_text", "file": "a.h", "find": "one\ntwo\n", "replace": "1\n2\n"})
    assert contents(tmp_path)["a.h"] == b"1\r\n2\r\nthree\r\n"


DIFF = """\
diff --git a/f.txt b/f.txt
--- a/f.txt
+++ b/f.txt
@@ -2,3 +2,4 @@ context
 b
-c
+C
+C2
 d
@@ -8,2 +9,3 @@
 h
 i
+j
"""
LETTERS = "".join(f"{letter}\n" for letter in "abcdefghi")
PATCHED = "a\nb\nC\nC2\nd\ne\nf\ng\nh\ni\nj\n"


def diff(text: str = DIFF) -> dict[str, object]:
    return {"action": "unified_diff", "diff": text}


def test_a_diff_is_applied(tmp_path: Path) -> None:
    write(tmp_path, {"f.txt": LETTERS})
    run(tmp_path, diff())
    assert contents(tmp_path)["f.txt"].decode() == PATCHED


def test_a_diff_that_was_applied_by_hand_is_recognised(tmp_path: Path) -> None:
    write(tmp_path, {"f.txt": PATCHED})
    assert run(tmp_path, diff()).entries[0].status == "already"
    assert contents(tmp_path)["f.txt"].decode() == PATCHED


def test_a_diff_may_be_shifted_but_only_to_one_place(tmp_path: Path) -> None:
    write(tmp_path, {"f.txt": "new\nnew\n" + LETTERS})
    run(tmp_path, diff())
    assert contents(tmp_path)["f.txt"].decode() == "new\nnew\n" + PATCHED


@pytest.mark.parametrize(
    "text",
    [LETTERS.replace("d\n", "D\n"), "new\nnew\n" + "b\nc\nd\n" * 2 + "e\nf\ng\nh\ni\n", "a\n"],
    ids=["other context", "two places", "too short"],
)
def test_a_diff_with_other_context_is_a_miss(tmp_path: Path, text: str) -> None:
    write(tmp_path, {"f.txt": text})
    with pytest.raises(PatchMiss, match="found nothing"):
        run(tmp_path, diff())
    assert contents(tmp_path, own=True) == {"f.txt": text.encode()}


def test_a_diff_keeps_crlf(tmp_path: Path) -> None:
    write(tmp_path, {"f.txt": LETTERS.replace("\n", "\r\n")})
    run(tmp_path, diff())
    assert contents(tmp_path)["f.txt"].decode() == PATCHED.replace("\n", "\r\n")


def test_a_diff_minds_the_missing_end_of_the_last_line(tmp_path: Path) -> None:
    text = "--- a/f\n+++ b/f\n@@ -1,2 +1,2 @@\n a\n-b\n\\ No newline at end of file\n+c\n\\ No newline at end of file\n"
    write(tmp_path, {"f": "a\nb"})
    run(tmp_path, diff(text))
    assert contents(tmp_path)["f"] == b"a\nc"


def test_a_diff_gives_the_last_line_its_end(tmp_path: Path) -> None:
    text = "--- a/f\n+++ b/f\n@@ -1,2 +1,2 @@\n a\n-b\n\\ No newline at end of file\n+b\n"
    write(tmp_path, {"f": "a\nb"})
    assert run(tmp_path, diff(text)).entries[0].status == "changed"
    assert contents(tmp_path)["f"] == b"a\nb\n"
    assert run(tmp_path, diff(text)).entries[0].status == "already"


def test_a_diff_creates_a_file(tmp_path: Path) -> None:
    text = "--- /dev/null\n+++ b/new/f\n@@ -0,0 +1,2 @@\n+one\n+two\n"
    run(tmp_path, diff(text))
    assert contents(tmp_path) == {"new/f": b"one\ntwo\n"}
    assert run(tmp_path, diff(text)).entries[0].status == "already"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("no diff at all\n", "holds no change"),
        ("--- a/f\n+++ b/f\n@@ -1,3 +1,1 @@\n a\n", "not a unified diff"),
        ("--- a/f\n+++ /dev/null\n@@ -1 +0,0 @@\n-a\n", "deletes"),
        ("--- a/../f\n+++ b/../f\n@@ -1 +1 @@\n-a\n+b\n", "not a path inside the tree"),
    ],
)
def test_a_diff_that_cannot_be_used_is_refused_at_loading(tmp_path: Path, text: str, message: str) -> None:
    write(
        tmp_path,
        {"x.toml": f"description = 'x'\n[[operation]]\naction = 'unified_diff'\ndiff = '''\n{text}'''\n"},
    )
    with pytest.raises(PatchSetError, match=message):
        load([tmp_path])
