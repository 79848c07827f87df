"""The cmake that setup.py finds first on PATH. It is run as

    python -I -S -B standin.py SETTINGS.json ARGUMENTS...

While compiling (``"mode": "record"``) it writes down how it was called and becomes the real cmake; what an install
puts under its prefix is put into a folder of its own too. With a layer at hand (``"mode": "replay"``)
it compares each call with the one that was written down, does nothing for configuring and building, and for an install
copies what the layer holds. A call that is another one ends setup.py: then the layer does not fit.

Only the standard library: below ``-S`` there is nothing else.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

MISFIT = 86
"""Exit status where a call is not the layer's."""

_WITHIN = "VLLM_BUILDER_WITHIN_CMAKE"
"""Set below a cmake that setup.py called: what that one calls itself comes with it."""

_FREE_ARGUMENTS = re.compile(
    r"-D(CMAKE_JOB_POOLS|NVCC_THREADS|CMAKE_\w+_COMPILER_LAUNCHER|VLLM_PYTHON_PATH|VLLM_PYTHON_EXECUTABLE)(:\w+)?=.*"
    r"|-j=?\d*|--parallel(=\d+)?"
)
"""They say how to compile (jobs, compiler cache) and where the build environment lies."""
_FREE_VARIABLES = (
    "_",
    "PWD",
    "OLDPWD",
    "SHLVL",
    "SETUPTOOLS_SCM_*",
    "VLLM_VERSION_OVERRIDE",
    "VLLM_RS_BUILD_VERSION",
)
"""Variables that a shell sets, or that hold the version; where native sources ask for that, the digest holds it."""


def call_of(
    arguments: Sequence[str], environ: Mapping[str, str], settings: Mapping[str, Any]
) -> dict[str, Any]:
    """What a call asks for, the same on every machine and in every folder.

    Args:
        arguments: of cmake, without its own name.
        environ: the variables that it was called with.
        settings: ``places`` maps folders to names, ``environment`` variables to the hashes of their values as
            setup.py was given them.

    Returns:
        ``kind`` (configure, build, install, or other for a call that no layer can answer), ``arguments``, and
        ``environment``: the variables that setup.py changed.
    """
    places = sorted(settings["places"].items(), key=lambda pair: -len(pair[0]))

    def neutral(text: str) -> str:
        for place, name in places:
            text = re.sub(rf"{re.escape(place)}(?![\w.-])", name, text)
        return text

    rest = list(arguments)
    kind = "other"
    if rest[:1] == ["--build"]:
        kind = "build"
    elif rest[:1] == ["--install"]:
        kind = "install" if install_of(arguments) else "other"
        if kind == "install":
            rest = ["--component", rest[rest.index("--component") + 1]]
    elif rest and not rest[0].startswith("-"):
        kind = "configure"
    kept = []
    for index, argument in enumerate(rest):
        after_jobs = index and rest[index - 1] in {"-j", "--parallel"} and argument.isdigit()
        if not (_FREE_ARGUMENTS.fullmatch(argument) or after_jobs):
            kept.append(neutral(argument))
    given = settings["environment"]
    changed = {
        name: neutral(environ[name]) if name in environ else None
        for name in sorted({*given, *environ})
        if not any(fnmatchcase(name, free) for free in _FREE_VARIABLES)
        and given.get(name) != (fingerprint(environ[name]) if name in environ else None)
    }
    return {"kind": kind, "arguments": kept, "environment": changed}


def fingerprint(value: str) -> str:
    """Variables can hold credentials: only a hash of them is written down."""
    return hashlib.sha256(value.encode("utf-8", "surrogateescape")).hexdigest()[:16]


def install_of(arguments: Sequence[str]) -> tuple[Path, str] | None:
    """Prefix and component of ``--install . --prefix P --component C``; None for an install of another shape."""
    options = dict(zip(arguments[2::2], arguments[3::2], strict=False))
    if len(arguments) != 6 or set(options) != {"--prefix", "--component"}:
        return None
    return Path(options["--prefix"]), options["--component"]


def is_question(arguments: Sequence[str]) -> bool:
    """Whether cmake is only asked for its version, or used as a tool (``-E``, ``-P``)."""
    return not arguments or arguments[0] in {"--version", "-version", "-V", "--help", "-E", "-P"}


def main(settings_path: str, arguments: list[str]) -> int:
    settings = json.loads(Path(settings_path).read_text(encoding="utf-8"))
    real = settings["real"]
    if is_question(arguments) or os.environ.get(_WITHIN):
        os.execv(real, [real, *arguments])
    calls = Path(settings["calls"])
    call = call_of(arguments, os.environ, settings)
    number = len(calls.read_text(encoding="utf-8").splitlines()) if calls.exists() else 0
    with calls.open("a", encoding="utf-8") as file:
        file.write(json.dumps(call, sort_keys=True) + "\n")
    os.environ[_WITHIN] = "1"
    if settings["mode"] == "replay":
        return _replay(number, call, arguments, settings)
    if call["kind"] != "install":
        os.execv(real, [real, *arguments])
    done = subprocess.run([real, *arguments], check=False).returncode
    if done == 0:
        # A second time, into an empty folder: whatever an install does, here lies what it wrote.
        prefix, _ = install_of(arguments) or (Path(), "")
        again = [str(_folder(settings, number)) if item == str(prefix) else item for item in arguments]
        if subprocess.run([real, *again], check=False, stdout=subprocess.DEVNULL).returncode != 0:
            # The wheel does not suffer from it: there will be no layer.
            with calls.open("a", encoding="utf-8") as file:
                file.write(
                    json.dumps({"kind": "other", "arguments": ["a second install"], "environment": {}}) + "\n"
                )
    return done


def _replay(number: int, call: dict[str, Any], arguments: Sequence[str], settings: Mapping[str, Any]) -> int:
    wanted = settings["expected"][number : number + 1]
    if wanted != [call]:
        text = "a further call" if not wanted else _difference(call, wanted[0])
        Path(settings["misfit"]).write_text(f"cmake {call['kind']}: {text}", encoding="utf-8")
        print(f"The native layer does not fit: cmake {call['kind']}: {text}", file=sys.stderr)
        return MISFIT
    print(f"-- {call['kind']}: from the native layer", flush=True)
    found = install_of(arguments)
    folder = _folder(settings, number)
    if found is not None and folder.is_dir():
        for source in sorted(path for path in folder.rglob("*") if not path.is_dir()):
            target = found[0] / source.relative_to(folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileNotFoundError):
                target.unlink()
            shutil.copy(source, target)
    return 0


def _folder(settings: Mapping[str, Any], number: int) -> Path:
    return Path(settings["files"]) / f"{number:04d}"


def _difference(call: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """What is in one of two calls alone."""
    if call["kind"] != wanted["kind"]:
        return f"where {wanted['kind']} was expected"
    here = {*call["arguments"], *(f"{k}={v}" for k, v in call["environment"].items())}
    there = {*wanted["arguments"], *(f"{k}={v}" for k, v in wanted["environment"].items())}
    parts = [f"with {x}" for x in sorted(here - there)] + [f"without {x}" for x in sorted(there - here)]
    return ", ".join(parts[:4]) or "the same arguments in another order"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
