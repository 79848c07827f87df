"""All or nothing, once or twice, after a crash, and never outside of the tree."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from patch_helpers import contents, run, selection, write

from vllm_builder import fs
from vllm_builder.errors import NoSpace, PatchFailed, PatchMiss
from vllm_builder.events import Event, Note
from vllm_builder.stages.patch import PatchReport, apply, journal

TREE = {
    "pyproject.toml": '[build-system]\nrequires = ["torch", "wheel"]\n',
    "requirements/a.txt": "torch\nnumpy\n",
    "requirements/b.txt": "x\ntorch==2 # z\n",
    "cmake/x.cmake": "set(A ON)\n",
}
PINS = {"action": "remove_requirements", "files": ["requirements/**/*.txt"], "names": ["torch"]}
ARRAY = {"action": "remove_toml_requirements", "keys": ["build-system.requires"], "names": ["torch"]}
NEW = {"action": "create_file", "file": "new/file", "content": "new\n"}
WRONG = {"action": "replace_text", "file": "cmake/x.cmake", "find": "nope", "replace": "y"}
DONE = {
    "pyproject.toml": b'[build-system]\nrequires = ["wheel"]\n',
    "requirements/a.txt": b"numpy\n",
    "requirements/b.txt": b"x\n",
    "cmake/x.cmake": b"set(A ON)\n",
    "new/file": b"new\n",
}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return write(tmp_path / "tree", TREE)


def test_everything_is_applied_in_order(tree: Path) -> None:
    report = run(tree, PINS, ARRAY, NEW)
    assert contents(tree) == DONE
    assert [(e.number, e.action, e.file, e.status) for e in report.entries] == [
        (1, "remove_requirements", "requirements/a.txt", "changed"),
        (1, "remove_requirements", "requirements/b.txt", "changed"),
        (2, "remove_toml_requirements", "pyproject.toml", "changed"),
        (3, "create_file", "new/file", "changed"),
    ]
    assert report.changed == ("new/file", "pyproject.toml", "requirements/a.txt", "requirements/b.txt")
    assert PatchReport.model_validate_json(report.model_dump_json()).entries == report.entries


def test_a_later_operation_sees_what_an_earlier_one_did(tree: Path) -> None:
    run(tree, NEW, {"action": "replace_text", "file": "new/file", "find": "new", "replace": "newer"})
    assert (tree / "new/file").read_text() == "newer\n"


def test_a_miss_leaves_the_tree_as_it_was(tree: Path) -> None:
    before = contents(tree, own=True)
    with pytest.raises(PatchMiss) as miss:
        run(tree, PINS, ARRAY, NEW, WRONG)
    assert miss.value.exit_code == 31
    assert "operation 4 (replace_text)" in miss.value.what
    assert contents(tree, own=True) == before


def test_twice_changes_nothing_the_second_time(tree: Path) -> None:
    first = run(tree, PINS, ARRAY, NEW)
    before = {path: path.stat() for path in tree.rglob("*")}
    second = run(tree, PINS, ARRAY, NEW)
    assert {path: path.stat() for path in tree.rglob("*")} == before
    assert second.changed == ()
    assert second.diff() == ""
    assert {entry.status for entry in second.entries} == {"already"}
    assert [(e.file, e.before) for e in second.entries] == [(e.file, e.before) for e in first.entries]


def test_what_comes_back_is_removed_again(tree: Path) -> None:
    run(tree, PINS)
    write(tree, {"requirements/a.txt": "torch\nnumpy\n"})
    report = run(tree, PINS)
    assert report.changed == ("requirements/a.txt",)
    assert (tree / "requirements/a.txt").read_text() == "numpy\n"


def test_check_finds_the_same_and_writes_nothing(tree: Path) -> None:
    before = contents(tree, own=True)
    report = run(tree, PINS, ARRAY, NEW, check=True)
    assert contents(tree, own=True) == before
    done = run(tree, PINS, ARRAY, NEW)
    assert report.entries == done.entries
    assert report.diff() == done.diff()


def test_the_diff_is_one_that_git_applies(tree: Path, tmp_path: Path) -> None:
    write(tree, {"requirements/c.txt": b"a\r\ntorch\r\nlast"})
    copy = write(tmp_path / "copy", contents(tree))
    report = run(tree, PINS, ARRAY, NEW)
    command = ["git", "apply", "--whitespace=nowarn", "-"]
    git = subprocess.run(command, cwd=copy, input=report.diff().encode(), capture_output=True, check=False)
    assert git.returncode == 0, git.stderr
    assert contents(copy) == contents(tree)


def test_modes_stay(tree: Path) -> None:
    (tree / "requirements/a.txt").chmod(0o755)
    (tree / "requirements/b.txt").chmod(0o640)
    run(tree, PINS)
    assert stat.S_IMODE((tree / "requirements/a.txt").stat().st_mode) == 0o755
    assert stat.S_IMODE((tree / "requirements/b.txt").stat().st_mode) == 0o640


def test_an_edit_that_would_break_a_file_is_refused(tree: Path) -> None:
    before = contents(tree, own=True)
    for file, find, what in [
        ("pyproject.toml", "]\nrequires", "pyproject"),
        ("cmake/x.cmake", "ON)", "x.cmake"),
    ]:
        broken = {"action": "replace_text", "file": file, "find": find, "replace": "("}
        with pytest.raises(PatchFailed, match=f"break .*{what}"):
            run(tree, PINS, broken)
        assert contents(tree, own=True) == before


def test_a_write_that_fails_undoes_the_ones_before(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = contents(tree, own=True)
    original = Path.replace
    calls = 0

    def replace(self: Path, target: Path) -> Path:
        nonlocal calls
        calls += 1
        if calls == 6:
            raise OSError(28, "No space left on device", str(target))
        return original(self, target)

    monkeypatch.setattr(Path, "replace", replace)
    with pytest.raises(NoSpace):
        run(tree, PINS, ARRAY, NEW)
    assert calls == 8  # two files that were written are written back
    assert contents(tree, own=True) == before


@pytest.mark.parametrize("survived", range(7))
def test_a_killed_process_leaves_nothing_behind(tree: Path, survived: int) -> None:
    """The process dies just before its n-th rename; the next application starts from the original."""
    child = f"""
import os, signal, sys
from pathlib import Path
sys.path[:0] = {sys.path!r}
from patch_helpers import run
from test_applying import ARRAY, NEW, PINS
original, left = Path.replace, {survived}
def replace(self, target):
    global left
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    left -= 1
    return original(self, target)
Path.replace = replace
run(Path({str(tree)!r}), PINS, ARRAY, NEW)
"""
    before = contents(tree)
    done = subprocess.run([sys.executable, "-c", child], check=False, capture_output=True)
    # Six files are renamed into place: the journal, four of the tree, the record.
    assert done.returncode == (-signal.SIGKILL if survived < 6 else 0), done.stderr
    looked = run(tree, PINS, ARRAY, NEW, check=True)
    notes: list[Event] = []
    report = apply(selection(PINS, ARRAY, NEW), tree, emit=notes.append)
    broken_off = 1 <= survived < 6
    assert report.rolled_back is looked.rolled_back is broken_off
    assert any(isinstance(note, Note) and "broken off" in note.message for note in notes) is broken_off
    assert looked.entries == report.entries
    assert {entry.status for entry in report.entries} == {"changed" if survived < 6 else "already"}
    assert contents(tree) == DONE
    assert not [path for path in tree.rglob(".*") if path.name != journal.RECORD]
    assert before.keys() <= DONE.keys()


def test_after_a_crash_another_selection_starts_from_the_original(tree: Path) -> None:
    files = {"requirements/a.txt": (b"torch\nnumpy\n", b"numpy\n"), "gone": (None, b"x")}
    journal.commit(tree, files)
    fs.write_atomic(
        tree / journal.JOURNAL, '{"files": {"requirements/a.txt": "dG9yY2gKbnVtcHkK", "gone": null}}'
    )
    report = apply(selection(NEW), tree)
    assert report.rolled_back
    assert contents(tree) == {**{name: text.encode() for name, text in TREE.items()}, "new/file": b"new\n"}


@pytest.mark.parametrize(
    "text", ["", "[]", '{"files": {"../x": null}}', '{"files": {"/x": "eA=="}}', '{"files": {"a": "%"}}']
)
def test_a_damaged_or_hostile_journal_is_refused(tree: Path, text: str) -> None:
    write(tree, {journal.JOURNAL: text})
    before = contents(tree.parent, own=True)
    with pytest.raises(PatchFailed):
        run(tree, NEW)
    assert contents(tree.parent, own=True) == before


def test_a_damaged_record_is_refused(tree: Path) -> None:
    write(tree, {journal.RECORD: '{"a": 1}'})
    with pytest.raises(PatchFailed, match="cannot be read"):
        run(tree, NEW)


OUTSIDE = {"secret.txt": "torch\nsecret\n", "setup.cfg": "[a]\n"}


@pytest.mark.parametrize(
    ("link", "target", "operation"),
    [
        ("requirements/l.txt", "../../outside/secret.txt", PINS),
        ("requirements/deep", "../../outside", {**PINS, "files": ["requirements/deep/*.txt"]}),
        ("setup.cfg", "../outside/setup.cfg",
         {"action": "set_cfg_key", "section": "s", "key": "k", "value": "v"}),
        ("new", "../outside", NEW),
        ("new", "../outside", {**NEW, "overwrite": True}),
        ("dangling", "../outside/none", {**NEW, "file": "dangling"}),
        ("requirements/l.txt", "../../outside/secret.txt",
         {"action": "run_script", "scripts": [{"path": "s.py"}], "files": ["requirements/*"], "names": ["torch"]}),
        ("s.py", "../outside/secret.txt",
         {"action": "run_script", "scripts": [{"path": "s.py"}], "files": ["requirements/*"], "names": ["torch"]}),
        ("loop", "loop", {**NEW, "file": "loop"}),
    ],
)  # fmt: skip
def test_links_out_of_the_tree_are_refused(
    tree: Path, link: str, target: str, operation: dict[str, object]
) -> None:
    outside = write(tree.parent / "outside", OUTSIDE)
    if link != "s.py":
        write(tree, {"s.py": "pass\n"})
    (tree / link).symlink_to(target)
    before = contents(tree.parent, own=True)
    with pytest.raises(PatchFailed):
        run(tree, operation)
    assert contents(tree.parent, own=True) == before
    assert contents(outside) == {name: text.encode() for name, text in OUTSIDE.items()}


def test_folders_behind_links_are_not_searched(tree: Path) -> None:
    outside = write(tree.parent / "outside", OUTSIDE)
    (tree / "requirements/deep").symlink_to("../../outside")
    assert run(tree, PINS).changed == ("requirements/a.txt", "requirements/b.txt")
    assert contents(outside) == {name: text.encode() for name, text in OUTSIDE.items()}


def test_the_patch_stages_own_files_are_not_written_through_links(tree: Path) -> None:
    outside = write(tree.parent / "outside", OUTSIDE)
    (tree / journal.RECORD).symlink_to(outside / "none")
    with pytest.raises(PatchFailed):
        run(tree, NEW)
    (tree / journal.RECORD).unlink()
    (tree / journal.JOURNAL).symlink_to(outside / "secret.txt")
    run(tree, NEW)
    assert contents(outside) == {name: text.encode() for name, text in OUTSIDE.items()}


def test_a_link_inside_the_tree_stands_for_its_file(tree: Path) -> None:
    (tree / "requirements/l.txt").symlink_to("a.txt")
    (tree / "cfg").mkdir()
    (tree / "setup.cfg").symlink_to("cfg/real.cfg")
    report = run(tree, PINS, {"action": "set_cfg_key", "section": "s", "key": "k", "value": "v"})
    assert (tree / "requirements/l.txt").is_symlink()
    assert (tree / "requirements/a.txt").read_text() == "numpy\n"
    assert (tree / "cfg/real.cfg").read_text() == "[s]\nk = v\n"
    assert report.changed == ("cfg/real.cfg", "requirements/a.txt", "requirements/b.txt")


def test_a_tree_that_is_named_by_a_relative_path_or_a_link(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tree.parent / "link").symlink_to("tree")
    monkeypatch.chdir(tree.parent)
    run(Path("link"), PINS, ARRAY, NEW)
    assert contents(tree) == DONE


def test_no_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(PatchFailed, match="not a folder"):
        run(tmp_path / "nope", NEW)


def test_notes_are_told(tree: Path) -> None:
    events: list[Event] = []
    apply(selection({**NEW, "note": "Something to know."}), tree, emit=events.append)
    assert [event.message for event in events if isinstance(event, Note)] == ["Something to know."]
    events.clear()
    apply(selection({**NEW, "note": "Something to know."}), tree, emit=events.append)
    assert not [event for event in events if isinstance(event, Note)]


def test_nothing_to_do_writes_nothing(tree: Path) -> None:
    before = os.stat(tree).st_mtime_ns  # noqa: PTH116
    assert run(tree, {**PINS, "names": ["scipy"], "miss": "optional"}).changed == ()
    assert os.stat(tree).st_mtime_ns == before  # noqa: PTH116
    assert not (tree / journal.RECORD).exists()
