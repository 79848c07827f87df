"""Who types commands on a machine of made-up toolkits, and a release that fetches an external source."""

from __future__ import annotations

import os
import re

import pytest
from cuda_machine import Machine
from vendor_helpers import Repository

from vllm_builder import errors
from vllm_builder.cli import main, screen

FETCHES = """
include(FetchContent)
FetchContent_Declare(kit GIT_REPOSITORY https://git.invalid/Kit.git GIT_TAG v1.0)
FetchContent_MakeAvailable(kit)
include_directories(${kit_SOURCE_DIR}/deep/core)
"""


class Person:
    """Types commands on a machine and reads what they say."""

    def __init__(
        self, machine: Machine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        self.machine, self.capsys = machine, capsys
        self.monkeypatch = monkeypatch

    def types(
        self, command: str, *arguments: str, version: str = "0.9.2", release: bool = True
    ) -> tuple[int, str, str]:
        for name in list(os.environ):
            if name not in self.machine.environ and not name.startswith(("LC_", "LANG", "PYTEST")):
                self.monkeypatch.delenv(name)
        for name, value in self.machine.environ.items():
            self.monkeypatch.setenv(name, value)
        self.monkeypatch.chdir(self.machine.folder)
        screen.use_json(False)
        code = 0
        self.capsys.readouterr()
        try:
            main([command, *self.machine.arguments(version, release), *arguments])
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
        said = self.capsys.readouterr()
        return code, said.out, said.err

    def fails(self, error: type[errors.BuilderError], command: str, *arguments: str, **more: str) -> str:
        code, out, err = self.types(command, *arguments, **more)
        assert code == error.exit_code, out + err
        assert "Traceback" not in out + err
        assert "why:" in err
        assert "next:" in err
        made = self.machine.folder / "cache"
        assert not (made / "environments").exists()
        assert not (made / "toolkits").exists()
        return " ".join(err.split())


class Kit:
    """A release that fetches ``kit``, which has the submodule ``deep/core``."""

    def __init__(self, person: Person) -> None:
        self.person, folder = person, person.machine.folder
        person.machine.toolkit("13.0")
        person.machine.release("0.9.2", files={"CMakeLists.txt": FETCHES})
        self.core = Repository(folder / "upstream/core")
        self.core.commit({"core.h": "core\n"})
        self.kit = Repository(folder / "upstream/kit")
        self.kit.commit({"kit.h": "kit\n", "CMakeLists.txt": "include_directories(deep/core)\n"})
        self.kit.submodule(self.core, "deep/core", "../core.git")
        self.kit("tag", "v1.0")
        self.lock = folder / "locks" / "vllm-0.9.2.toml"
        self.common = ("--arch", "sm_100", "--cuda", "system")
        self.mirrors = self.mirror(self.kit.path)

    def mirror(self, path: object) -> tuple[str, ...]:
        return ("--external", f"kit={path}", "--external", f"core={self.core.path}")

    def write_lock(self) -> None:
        arguments = ["vendor", "0.9.2", "--lock", *self.common[:2], *self.mirrors]
        arguments += ["--source", str(self.person.machine.release("0.9.2"))]
        arguments += ["--cache-dir", str(self.person.machine.folder / "cache")]
        self.person.monkeypatch.chdir(self.person.machine.folder)
        with pytest.raises(SystemExit) as end:
            main(arguments)
        assert end.value.code == 0

    def changed(self, pattern: str, replacement: str) -> None:
        text = self.lock.read_text()
        found = re.sub(pattern, replacement, text, count=1, flags=re.M)
        assert found != text
        self.lock.write_text(found)
