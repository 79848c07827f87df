"""Upstream's script runs in a copy, and only what it may delete is deleted."""

from __future__ import annotations

from pathlib import Path

import pytest
from patch_helpers import contents, run, write

from vllm_builder.errors import PatchFailed, PatchMiss

# What upstream's script has done since 0.6.2, in a few lines.
SCRIPT = """
import glob
for name in [*glob.glob("requirements*.txt"), "pyproject.toml"]:
    lines = open(name).readlines()
    with open(name, "w") as file:
        file.writelines(line for line in lines if "torch" not in line.lower())
"""
TREE = {
    "use_existing_torch.py": SCRIPT,
    "requirements-common.txt": (
        "numpy\n"
        "outlines >= 0.0.43 # Requires torch >= 2.1.0\n"
        "torch==2.5.1 \\\n    --hash=sha256:00\n"
        "# torch is above\n"
        "open-clip-torch\r\n"
    ),
    "pyproject.toml": (
        '[build-system]\nrequires = [\n    "wheel",\n    "torch == 2.5.1",\n]\n'
        '[tool.uv]\nno-build-isolation-package = ["torch"]\n'
    ),
    "setup.py": "# torch\n",
}
OPERATION = {
    "action": "run_script",
    "scripts": [
        {"path": "tools/use_existing_torch.py", "arguments": ["--prefix"]},
        {"path": "use_existing_torch.py"},
    ],
    "files": ["requirements*.txt", "requirements/**/*.txt", "pyproject.toml"],
    "toml_keys": ["build-system.requires"],
    "names": ["torch", "torchvision"],
}


def test_only_requirements_of_the_family_are_deleted(tmp_path: Path) -> None:
    write(tmp_path, TREE)
    report = run(tmp_path, OPERATION)
    after = contents(tmp_path)
    assert after["requirements-common.txt"] == (
        b"numpy\noutlines >= 0.0.43 # Requires torch >= 2.1.0\n# torch is above\nopen-clip-torch\r\n"
    )
    assert after["pyproject.toml"].decode() == TREE["pyproject.toml"].replace('    "torch == 2.5.1",\n', "")
    assert after["setup.py"] == b"# torch\n"
    entries = {entry.file: entry for entry in report.entries}
    assert entries["requirements-common.txt"].put_back == (
        "outlines >= 0.0.43 # Requires torch >= 2.1.0",
        "# torch is above",
        "open-clip-torch",
    )
    assert entries["pyproject.toml"].put_back == ('no-build-isolation-package = ["torch"]',)
    assert entries["pyproject.toml"].before == ('    "torch == 2.5.1",',)
    assert entries["pyproject.toml"].note == "ran use_existing_torch.py"


def test_a_second_run_changes_nothing_and_still_says_what_it_kept(tmp_path: Path) -> None:
    write(tmp_path, TREE)
    first = run(tmp_path, OPERATION)
    before = contents(tmp_path, own=True)
    second = run(tmp_path, OPERATION)
    assert {entry.status for entry in second.entries} == {"already"}
    assert contents(tmp_path, own=True) == before
    assert [entry.put_back for entry in second.entries] == [entry.put_back for entry in first.entries]


def test_the_first_script_that_exists_runs_with_its_arguments(tmp_path: Path) -> None:
    tools = "import sys\nassert sys.argv[1:] == ['--prefix']\nopen('requirements.txt', 'w')\n"
    write(
        tmp_path,
        {**TREE, "tools/use_existing_torch.py": tools, "requirements.txt": "torch\nnumpy\n"},
    )
    report = run(tmp_path, OPERATION)
    assert contents(tmp_path)["requirements.txt"] == b"numpy\n"
    assert report.entries[0].note == "ran tools/use_existing_torch.py --prefix"


def test_a_script_sees_only_its_files_and_no_trace_of_the_tree(tmp_path: Path) -> None:
    spy = (
        "import os, sys\n"
        "seen = sorted(os.path.join(at, f) for at, _, files in os.walk('.') for f in files)\n"
        "assert seen == ['./pyproject.toml', './requirements-common.txt', './use_existing_torch.py'], seen\n"
        f"assert {str(tmp_path)!r} not in str(sys.path) + str(os.environ) + os.getcwd() + __file__\n"
    )
    write(tmp_path, {**TREE, "use_existing_torch.py": spy})
    assert {entry.status for entry in run(tmp_path, OPERATION).entries} == {"already"}


def test_what_a_script_writes_or_removes_otherwise_is_not_taken_over(tmp_path: Path) -> None:
    script = (
        "import os\n"
        "open('requirements-common.txt', 'a').write('evil\\n')\n"
        "open('new.txt', 'w').write('evil\\n')\n"
        "os.remove('pyproject.toml')\n"
    )
    write(tmp_path, {**TREE, "use_existing_torch.py": script})
    report = run(tmp_path, OPERATION)
    after = contents(tmp_path)
    assert after["requirements-common.txt"] == TREE["requirements-common.txt"].encode()
    assert "new.txt" not in after
    assert after["pyproject.toml"].decode() == TREE["pyproject.toml"].replace('    "torch == 2.5.1",\n', "")
    assert "1 lines that it wrote were not taken over" in report.entries[0].note


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("import nowhere_to_be_found\n", "exit code 1"),
        ("while True: pass\n", "did not end within 0.5 seconds"),
    ],
)
def test_a_script_that_fails_changes_nothing(tmp_path: Path, script: str, message: str) -> None:
    write(tmp_path, {**TREE, "use_existing_torch.py": script})
    before = contents(tmp_path, own=True)
    with pytest.raises(PatchFailed, match=message):
        run(tmp_path, {**OPERATION, "timeout": 0.5 if "while" in script else 60})
    assert contents(tmp_path, own=True) == before


def test_no_script_is_a_miss(tmp_path: Path) -> None:
    write(tmp_path, {"pyproject.toml": "a = 1\n"})
    with pytest.raises(PatchMiss) as miss:
        run(tmp_path, OPERATION)
    assert "tools/use_existing_torch.py" in miss.value.why
    assert run(tmp_path, {**OPERATION, "miss": "optional"}).entries[0].status == "skipped-optional"
