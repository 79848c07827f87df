"""Find the external sources of every release that has an sdist, and repoint its CMake files at vendored ones.

    python benchmarks/externals.py --sdists DIR      archives that are there already
    python benchmarks/externals.py                   download them first (once, into the user cache)

Prints one line per release: what a build for --device fetches, and at which revision. Then every call that such a
build may take is repointed, twice. What is found is held against rules that share no code with the reading of CMake
files: the lines with GIT_REPOSITORY are counted as text, and after repointing none may be left in a file that the
device's build reads. The lock file that is shipped for the release must have each of them, or name it as one that
could not be had. Exit code 1 on any violation.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from patch_releases import _archives, _version

if TYPE_CHECKING:
    from vllm_builder.stages.vendor import External

_FETCH = re.compile(r"^\s*GIT_REPOSITORY\s", re.MULTILINE)
_CPU = "cpu_extension.cmake"
"""The one file with fetches that a build for cuda never reads, and the one that a build for cpu reads."""


@dataclass
class Row:
    release: str
    seconds: float
    externals: list[str] = field(default_factory=list)
    declared: int = 0
    left: int = 0
    locked: int = 0
    unlocked: list[str] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sdists", type=Path, help="folder of vllm-*.tar.gz (default: download them)")
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--cuda", default="13.0", help="version of nvcc")
    arguments = parser.parse_args()
    archives = sorted(_archives(arguments.sdists), key=_version)
    if not archives:
        print("There are no sdists.", file=sys.stderr)
        return 2
    rows = [examine(archive, arguments.device, arguments.cuda) for archive in archives]
    names = set()
    for row in rows:
        print(
            f"{row.release:>13}  {row.seconds:5.2f} s  {row.declared:2} declared, {row.left:2} left, "
            f"{row.locked} of {len(row.externals)} locked  ",
            end="",
        )
        print("; ".join(row.externals) or "-")
        names.update(item.partition(" ")[0] for item in row.externals)
    print(f"{len(rows)} releases, {len(names)} names: {', '.join(sorted(names))}")
    print(f"{sum(row.seconds for row in rows):.1f} s to find and repoint them all, in one process")
    whole = [row for row in rows if not row.unlocked]
    print(f"{len(whole)} releases are locked whole; in no lock file, for they could not be had:")
    absent: dict[str, list[str]] = {}
    for row in rows:
        for item in row.unlocked:
            absent.setdefault(item, []).append(row.release)
    for item, releases in sorted(absent.items()):
        print(f"    {item}  ({releases[0]}{f' to {releases[-1]}' if len(releases) > 1 else ''})")
    bad = [f"{row.release}: {violation}" for row in rows for violation in row.violations]
    for violation in bad:
        print(f"VIOLATION {violation}")
    print("no violation" if not bad else f"{len(bad)} violations")
    return 1 if bad else 0


def examine(archive: Path, device: str, cuda: str) -> Row:
    from vllm_builder.stages.patch import READ_PATTERNS, PatchSelection, apply
    from vllm_builder.stages.patch.operations import RepointFetchcontent, Step
    from vllm_builder.stages.source.extraction import extract
    from vllm_builder.stages.source.surveying import matcher
    from vllm_builder.stages.vendor import discover

    def look(tree: Path):  # type: ignore[no-untyped-def]
        return discover(tree, device=device, cuda=cuda, machine="x86_64", cpuinfo="flags: avx2 avx512f")

    with tempfile.TemporaryDirectory(prefix="vllm-builder-externals-") as scratch:
        tree = Path(scratch) / "tree"
        extract(archive, tree, select=matcher(READ_PATTERNS))
        written = _fetches(tree)
        started = time.perf_counter()
        found = look(tree)
        needed = [one for one in found if one.needed != "no"]
        steps = tuple(
            Step(
                set="externals",
                number=number,
                operation=RepointFetchcontent(
                    action="repoint_fetchcontent",
                    name=one.name,
                    revision=one.written,
                    source_dir=f"${{CMAKE_SOURCE_DIR}}/vllm/third_party/{one.name}.src",
                ),
            )
            for number, one in enumerate(needed, 1)
        )
        apply(PatchSelection(steps=steps), tree)
        row = Row(str(_version(archive)), time.perf_counter() - started, declared=len(found))
        row.externals = [
            f"{one.name} {one.revision[:12]}{'' if one.needed == 'yes' else ' (maybe)'}" for one in needed
        ]
        bad = row.violations
        _hold_against_lock(row, needed)
        if len(found) != sum(written.values()):
            bad.append(f"{len(found)} externals found, {sum(written.values())} GIT_REPOSITORY lines written")
        bad += [
            f"{one.name} has no repository or revision" for one in needed if not (one.url and one.revision)
        ]
        bad += [f"{one.name}: {one.why}" for one in needed if one.needed == "maybe"]
        after = _fetches(tree)
        row.left = sum(after.values())
        reads = {path for path in after if (path.endswith(_CPU)) == (device == "cpu")}
        if device == "cuda":
            bad += [f"{path} still fetches" for path in sorted(reads)]
        elif sum(written.values()) - row.left != len(needed):
            bad.append("other calls than the needed ones were repointed")
        bad += [f"{one.name} is still fetched" for one in look(tree) if one.needed != "no"]
        for path in (tree / "CMakeLists.txt", *tree.glob("cmake/**/*.cmake")):
            if not _parses(path.read_bytes()):
                bad.append(f"{path.name} does not parse")
        before = _contents(tree)
        apply(PatchSelection(steps=steps), tree)
        if _contents(tree) != before:
            bad.append("a second application changed something")
    return row


def _hold_against_lock(row: Row, needed: Sequence[External]) -> None:
    from vllm_builder.resources import shipped
    from vllm_builder.stages.vendor import read_lock
    from vllm_builder.stages.vendor.locking import key

    path = shipped("locks") / f"vllm-{row.release}.toml"
    if not path.is_file():
        row.violations.append(f"{path.name} is not there")
        return
    lock = read_lock(path)
    have, absent = {key(one) for one in lock.externals}, {key(one) for one in lock.unlocked}
    for one in needed:
        if key(one) in have:
            row.locked += 1
        elif key(one) in absent:
            row.unlocked.append(f"{one.name} {one.revision} {one.url}")
        else:
            row.violations.append(f"{path.name} does not say what {one.name} {one.revision} is")


def _fetches(tree: Path) -> dict[str, int]:
    files = (tree / "CMakeLists.txt", *sorted(tree.glob("cmake/**/*.cmake")))
    counts = {file.relative_to(tree).as_posix(): len(_FETCH.findall(file.read_text())) for file in files}
    return {path: count for path, count in counts.items() if count}


def _contents(tree: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in tree.rglob("*") if path.is_file()}


def _parses(data: bytes) -> bool:
    import tree_sitter_cmake
    from tree_sitter import Language, Parser

    return not Parser(Language(tree_sitter_cmake.language())).parse(data).root_node.has_error


if __name__ == "__main__":
    sys.exit(main())
