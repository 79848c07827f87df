"""Write vllm_builder/stages/verify/stable_abi.toml: which torch release brought which function of the stable ABI.

    python tools/stable_abi.py [--python cp312] > vllm_builder/stages/verify/stable_abi.toml

Reads the C shim's headers out of torch's wheels on the configured index, by ranges: about 1.5 MB of each.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterable

from packaging.version import Version
from pypi_simple import PYPI_SIMPLE_ENDPOINT, ProjectPage

from vllm_builder.indexes import read_indexes
from vllm_builder.stages.source.http import Http
from vllm_builder.wheelfile import open_wheel

OLDEST = Version("2.4")
HEADER = re.compile(r"torch/include/torch/csrc/(inductor/aoti_torch/(c|generated)/\w+\.h|stable/c/\w+\.h)")
FUNCTION = re.compile(r"AOTI_TORCH_EXPORT\b[^;{}()]*?\b((?:aoti_)?torch_\w+)\s*\(")
COMMENT = re.compile(r"/\*.*?\*/|//[^\n]*", re.DOTALL)


def functions(text: str) -> set[str]:
    return set(FUNCTION.findall(COMMENT.sub("", text)))


def wheels(page: ProjectPage, python: str) -> Iterable[tuple[Version, str]]:
    """One Linux wheel of each final release, oldest first."""
    best: dict[Version, str] = {}
    for package in page.packages:
        name = package.filename
        if name.endswith("x86_64.whl") and f"-{python}-{python}-" in name and package.version:
            version = Version(package.version)
            if version >= OLDEST and not version.is_prerelease and not package.is_yanked:
                best[version] = package.url
    return sorted(best.items())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--python", default="cp312", help="whose wheels are read; every release must have one"
    )
    python = parser.parse_args().python
    indexes = read_indexes()
    since: dict[str, Version] = {}
    last: set[str] = set()
    read = []
    with Http(indexes) as http:
        index = (indexes.index_url or PYPI_SIMPLE_ENDPOINT).rstrip("/")
        page = ProjectPage.from_response(http.get(f"{index}/torch/"), "torch")
        for version, url in wheels(page, python):
            with open_wheel(url, http=http) as wheel:
                headers = [name for name in wheel.members if HEADER.fullmatch(name)]
                last = set().union(*(functions(wheel.read(name).decode()) for name in headers))
            for name in last:
                since.setdefault(name, version)
            read.append(str(version))
            print(f"torch {version}: {len(headers)} headers, {len(last)} functions", file=sys.stderr)
    print("# The C functions of torch's stable ABI, by the release whose headers have them first.")
    print("# Written by tools/stable_abi.py from torch's wheels on PyPI: the headers")
    print("# torch/csrc/inductor/aoti_torch/{c,generated}/*.h and torch/csrc/stable/c/*.h of")
    print(f"# {read[0]} to {read[-1]}. What {read[0]} has may be older.")
    print(f"newest = {read[-1]!r}".replace("'", '"'))
    for version in sorted(set(since.values())):
        short = f"{version.major}.{version.minor}" + (f".{version.micro}" if version.micro else "")
        print(f'\n["{short}"]\nfunctions = [')
        for name in sorted(name for name, first in since.items() if first == version):
            print(f'    "{name}",' + ("" if name in last else f"  # gone in {read[-1]}"))
        print("]")


if __name__ == "__main__":
    main()
