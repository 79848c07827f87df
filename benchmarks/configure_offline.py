"""Configure CUDA builds with no network and no variables, from trees with vendored externals.

    python benchmarks/configure_offline.py                                   # the five releases below
    python benchmarks/configure_offline.py 0.9.2 --arch sm_90a --cache-dir DIR --sdists DIR
    python benchmarks/configure_offline.py 0.20.0 --stand-ins                # see below

For each release: plan, tree with patches and externals, toolkit and environment are made with network, as `build`
makes them. Then the release's own setup.py runs CMake's configure step in a network namespace in which there is not
even a loopback; building and installing are cut off by a wrapper around cmake. Of the variables that name folders of
external sources (*_SRC_DIR and their like) none is set. Printed are the seconds that CMake says it took, the units in
its build.ninja, and the architectures that it took up; what could not be had is listed by name. Repositories are
fetched from where vllm-builder.toml says ([externals.NAME]).

With --stand-ins, what cannot be had is replaced, for the configure step alone: by empty files of the names that the
release's CMake files give, or with --stand-in NAME=REVISION by another revision of the same repository. Such a tree
does not compile. The line says "with stand-ins" and which; no lock file ever holds one.

The exit code is 1 where a release did not configure.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vllm_builder.api import planned
from vllm_builder.cache import Cache
from vllm_builder.errors import BuilderError
from vllm_builder.events import Event, Note
from vllm_builder.pipeline import prepare_tree
from vllm_builder.settings.layers import gather
from vllm_builder.stages.compile import child_environment
from vllm_builder.stages.compile.compilercache import arrange
from vllm_builder.stages.environment import prepare
from vllm_builder.stages.plan.model import Plan
from vllm_builder.stages.plan.steps import default_cache, source_request
from vllm_builder.stages.source import resolve, survey
from vllm_builder.stages.vendor import (
    ExternalSource,
    Lock,
    cmake_files,
    discover,
    lock,
    read_lock,
    write_lock,
)
from vllm_builder.stages.vendor.locking import FOLDER, joined, key
from vllm_builder.stages.vendor.model import External, LockedExternal
from vllm_builder.stages.vendor.treehash import folder_hash

RELEASES = ("0.8.5.post1", "0.9.2", "0.11.0", "0.20.0", "0.33.0")
_NOWHERE = "0" * 40
_UNIT = re.compile(r"^build \S+\.o: (?:CUDA|CXX|C)_COMPILER_", re.MULTILINE)
_TOOK = re.compile(r"^-- (?:Configuring|Generating) done \(([\d.]+)s\)", re.MULTILINE)
_ARCHS = re.compile(r"^-- (CUDA (?:supported )?target architectures: .*)$", re.MULTILINE)
_WRAPPER = """#!/bin/sh
for argument; do
  case "$argument" in --build | --install) exit 0 ;; esac
done
exec {cmake} "$@"
"""


@dataclass
class Row:
    release: str
    torch: str = ""
    seconds: float = 0.0
    units: int = 0
    archs: str = ""
    externals: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    stand_ins: list[str] = field(default_factory=list)
    error: str = ""


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("releases", nargs="*", default=list(RELEASES), metavar="RELEASE")
    parser.add_argument("--sdists", type=Path, help="folder of vllm-*.tar.gz (default: download them)")
    parser.add_argument("--arch", default="sm_100")
    parser.add_argument("--torch", default="2.11.0")
    parser.add_argument("--cuda", default="pypi")
    parser.add_argument("--cache-dir", type=Path)
    parser.add_argument("--stand-ins", action="store_true", help="replace what cannot be had; see above")
    parser.add_argument("--stand-in", action="append", default=[], metavar="NAME=REVISION")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="leave trees and logs there")
    arguments = parser.parse_args()
    if subprocess.run(["unshare", "-rn", "true"], check=False).returncode:
        print("This machine gives no network namespace (unshare -rn).", file=sys.stderr)
        return 2
    rows = []
    with tempfile.TemporaryDirectory(prefix="vllm-builder-configure-") as scratch:
        for release in arguments.releases:
            folder = (arguments.keep or Path(scratch)).absolute() / release
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            rows.append(row := Row(release))
            try:
                Run(arguments, row, folder).all()
            except BuilderError as error:
                row.error = f"{error.what} {error.why}".strip()
                print("\n".join(("", row.error, *error.details)), file=sys.stderr)
            show(row)
            if not arguments.keep:
                shutil.rmtree(folder)
    return 1 if any(row.error for row in rows) else 0


def show(row: Row) -> None:
    if row.error:
        print(f"{row.release:>13}  NOT configured: {row.error}")
    else:
        how = " with stand-ins" if row.stand_ins else ""
        print(
            f"{row.release:>13}  configured{how} in {row.seconds:.1f} s: {row.units} units, torch {row.torch}"
        )
        print(f"{'':15}{row.archs}")
    for label, names in (
        ("vendored", row.externals),
        ("could not be fetched", row.missing),
        ("stand-in", row.stand_ins),
    ):
        for name in names:
            print(f"{'':15}{label}: {name}")
    sys.stdout.flush()


class Run:
    """One release."""

    def __init__(self, arguments: argparse.Namespace, row: Row, folder: Path) -> None:
        self.arguments, self.row, self.folder = arguments, row, folder
        self.options: dict[str, Any] = {
            "device": "cuda", "arch": (arguments.arch,), "torch": arguments.torch, "cuda": arguments.cuda,
            "cache_dir": arguments.cache_dir, "workspace": folder,
        }  # fmt: skip
        if arguments.sdists:
            self.options["source"] = str(arguments.sdists / f"vllm-{row.release}.tar.gz")

    def all(self) -> None:
        externals = self.lock()
        plan, settings = planned(
            self.row.release, **self.options, lock_file=self.folder / "lock.toml", externals=externals
        )
        self.row.torch = plan.build_torch.version if plan.build_torch else ""
        for decision in plan.decisions:
            if decision.what == "external" and not any(
                decision.value.startswith(name.partition(":")[0] + " ") for name in self.row.stand_ins
            ):
                self.row.externals.append(decision.value)
        cache = default_cache(settings)
        tree = self.folder / "tree"
        request = source_request(settings, plan.environment.indexes)
        prepare_tree(plan, tree, cache, request=request, externals=settings.externals, emit=warnings)
        self.configure(plan, tree, cache)

    def lock(self) -> dict[str, ExternalSource]:
        """Write the lock file of this run and say where the externals come from.

        What the shipped lock does not have is asked of its repository; what that does not have either is missing.
        """
        settings = gather({"version": self.row.release, **self.options}, dict(os.environ)).resolve().settings
        cache = default_cache(settings)
        from vllm_builder.indexes import read_indexes
        from vllm_builder.resources import shipped

        request = source_request(settings, read_indexes())
        pin = resolve(request, cache, warnings)
        release_files = survey(pin, cache, warnings, request=request)
        needed = [one for one in discover(release_files, device="cuda") if one.needed != "no"]
        path = shipped("locks") / f"vllm-{pin.release}.toml"
        known = read_lock(path) if path.is_file() else Lock(release=pin.release)
        have = {key(one) for one in known.externals}
        asked = lock(
            [one for one in needed if key(one) not in have], settings.externals, cache,
            release=pin.release, cmake=cmake_files(release_files), keep_going=True,
        )  # fmt: skip
        found = joined(known, asked)
        by_key = {key(one): one for one in needed}
        missing = [by_key[key(one)] for one in found.unlocked if key(one) in by_key]
        self.row.missing = [f"{one.name} {one.revision}  {one.url}" for one in missing]
        sources = dict(settings.externals)
        if self.arguments.stand_ins:
            revisions = dict(text.split("=", 1) for text in self.arguments.stand_in)
            for one in missing:
                entry, sources[one.name] = self.stand_in(
                    one, revisions.get(one.name), release_files, sources, cache
                )
                found = joined(found, Lock(release=found.release, externals=(entry,)))
        write_lock(found, self.folder / "lock.toml")
        return sources

    def stand_in(
        self,
        one: External,
        revision: str | None,
        release_files: Path,
        sources: dict[str, ExternalSource],
        cache: Cache,
    ) -> tuple[LockedExternal, ExternalSource]:
        if revision:
            (other,) = lock(
                [one.model_copy(update={"revision": revision})], sources, cache, release=self.row.release,
                cmake=cmake_files(release_files),
            ).externals  # fmt: skip
            self.row.stand_ins.append(f"{one.name}: its revision {revision} in place of {one.revision}")
            source = sources.get(one.name) or ExternalSource(git=one.url)
            return other.model_copy(update={"revision": one.revision, "written": one.written}), source
        folder = self.folder / "stand-ins" / one.name
        folder.mkdir(parents=True)
        code = b"\n".join(cmake_files(release_files).values()).decode()
        named = re.compile(rf"\$\{{{re.escape(one.name)}_SOURCE_DIR\}}/([\w./+-]+\.\w+)", re.IGNORECASE)
        names = {name for name in named.findall(code) if ".." not in name}
        for name in names or {"empty"}:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).touch()
        self.row.stand_ins.append(f"{one.name}: {len(names)} empty files in place of {one.revision}")
        entry = LockedExternal(
            name=one.name, url=one.url, revision=one.revision, written=one.written,
            folder=FOLDER.format(name=one.name), commit=_NOWHERE, tree=folder_hash(folder),
        )  # fmt: skip
        return entry, ExternalSource(path=folder)

    def configure(self, plan: Plan, tree: Path, cache: Cache) -> None:
        environ = {k: v for k, v in os.environ.items() if not k.endswith("_SRC_DIR")}
        if plan.toolkit is not None and plan.toolkit.spec is not None:
            from vllm_builder.stages.toolkit import assemble

            indexes = plan.environment.indexes
            assemble(plan.toolkit.spec, Path(plan.toolkit.home).parent, environ, indexes, emit=warnings)
        environment = prepare(plan.environment, cache.environments, environ=environ, emit=warnings)
        variables = child_environment(plan.compile, environment, environ)
        state = self.folder / "state"
        state.mkdir()
        arrange(plan.compile, variables, tree=tree, state=state)
        wrapper = self.folder / "bin" / "cmake"
        wrapper.parent.mkdir()
        wrapper.write_text(_WRAPPER.format(cmake=shutil.which("cmake", path=variables["PATH"])))
        wrapper.chmod(0o755)
        variables["PATH"] = f"{wrapper.parent}{os.pathsep}{variables['PATH']}"
        log = self.folder / "log"
        started = time.monotonic()
        with log.open("wb") as file:
            done = subprocess.run(
                ["unshare", "-rn", str(environment.python), "setup.py", "build_ext"],
                env=variables, cwd=tree, stdout=file, stderr=file, stdin=subprocess.DEVNULL, check=False,
            )  # fmt: skip
        wall = time.monotonic() - started
        text = log.read_text(errors="replace")
        took = [float(seconds) for seconds in _TOOK.findall(text)]
        ninja = next((tree / "build").glob("temp*/build.ninja"), None)
        # What setup.py does after the last cmake is no longer looked at: nothing was installed for it to copy.
        if ninja is None or len(took) < 2:
            print(text[-6000:], file=sys.stderr)
            why = re.search(r"^CMake Error.*(?:\n(?:  .*)?)*", text, re.MULTILINE)
            self.row.error = " ".join(why[0].split()) if why else f"setup.py ended with {done.returncode}"
            return
        fetched = sorted(path.name for path in tree.glob(".deps/*-src") if any(path.iterdir()))
        if fetched:
            self.row.error = f"fetched by CMake itself: {', '.join(fetched)}"
        self.row.seconds = sum(took)
        self.row.units = len(_UNIT.findall(ninja.read_text()))
        self.row.archs = "; ".join(dict.fromkeys(_ARCHS.findall(text)))
        print(f"{self.row.release}: {wall:.1f} s with setup.py and torch's import", file=sys.stderr)


def warnings(event: Event) -> None:
    if isinstance(event, Note) and event.level == "warning":
        print(event.message, file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
