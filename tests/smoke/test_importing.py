"""Wheels that import, and wheels that do not."""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from smoke_helpers import Place, compiled, library, trial, wheel

from vllm_builder.errors import InstallError, ResolutionError, SmokeFailed, WheelError
from vllm_builder.indexes import Indexes
from vllm_builder.stages.smoke import require, summary
from vllm_builder.wheelfile.record import BuildRecord

INIT = {"vllm/__init__.py": "from vllm import _C\n__version__ = '1.0'\n"}


def test_a_good_wheel(place: Place, tmp_path: Path) -> None:
    report = place.run(wheel(tmp_path, {**INIT, "vllm/_C.abi3.so": compiled(tmp_path, "_C")}))
    assert [t.name for t in report.trials] == ["install", "vllm._C", "import vllm", "ops", "serving"]
    assert [t.outcome for t in report.trials] == ["passed"] * 3 + ["not tried"] * 2
    assert "--serve" in trial(report, "serving").detail
    assert report.packages == {"vllm": "1.0"}
    assert report.good
    assert summary(report) == "3 passed, 2 not tried"
    require(report)


def test_what_was_installed_is_imported_and_no_source_tree(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = tmp_path / "tree"
    (tree / "vllm").mkdir(parents=True)
    (tree / "vllm/__init__.py").write_text("raise RuntimeError('the source tree')\n")
    monkeypatch.chdir(tree)
    made = wheel(tmp_path, {**INIT, "vllm/_C.abi3.so": compiled(tmp_path, "_C")})
    report = place.run(made, {"PYTHONPATH": str(tree)})
    assert "site-packages/vllm/__init__.py" in trial(report, "import vllm").detail
    assert report.good


def test_one_that_crashes_does_not_keep_the_others_from_being_tried(place: Place, tmp_path: Path) -> None:
    broken = "void nowhere(void);"
    report = place.run(
        wheel(
            tmp_path,
            {
                "vllm/__init__.py": "",
                "vllm/_a.abi3.so": compiled(tmp_path, "_a", inside="*(volatile int *)0 = 1;"),
                "vllm/_b.abi3.so": compiled(
                    tmp_path, "_b", before=broken, inside="nowhere();", flags=("-Wl,-z,now",)
                ),
                "vllm/_c.abi3.so": compiled(tmp_path, "_c", inside="__builtin_trap();"),
                "vllm/_d.abi3.so": compiled(
                    tmp_path,
                    "_d",
                    before="#include <stdio.h>\n#include <stdlib.h>",
                    inside='puts("why"); fflush(stdout); abort();',
                ),
                "vllm/_e.abi3.so": b"no library at all",
                "vllm/_f.abi3.so": compiled(tmp_path, "_f"),
            },
        )
    )
    outcomes = {t.name: t.outcome for t in report.trials if t.name.startswith("vllm.")}
    assert outcomes == {f"vllm._{x}": "failed" for x in "abcde"} | {"vllm._f": "passed"}
    assert "SIGSEGV" in trial(report, "vllm._a").detail
    assert "undefined symbol: nowhere" in trial(report, "vllm._b").detail
    assert "SIGILL" in trial(report, "vllm._c").detail
    assert "instruction" in trial(report, "vllm._c").detail
    assert "SIGABRT" in trial(report, "vllm._d").detail
    assert "why" in trial(report, "vllm._d").lines
    assert (
        "invalid ELF header" in trial(report, "vllm._e").detail
        or "file too short" in trial(report, "vllm._e").detail
    )
    assert "_d" in Path(report.log).read_text()
    with pytest.raises(SmokeFailed) as caught:
        require(report)
    assert "5 of" in caught.value.what
    assert report.log in caught.value.next
    assert any("vllm._c: ended by SIGILL" in line for line in caught.value.details)


def test_one_that_hangs(place: Place, tmp_path: Path) -> None:
    hangs = compiled(tmp_path, "_C", before="#include <unistd.h>", inside="for (;;) sleep(60);")
    report = place.run(wheel(tmp_path, {"vllm/__init__.py": "", "vllm/_C.abi3.so": hangs}), import_limit=1.5)
    assert trial(report, "vllm._C").outcome == "failed"
    assert "no end after 1.5 s" in trial(report, "vllm._C").detail
    assert trial(report, "import vllm").outcome == "passed"


def _driver_here() -> bool:
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True


@pytest.mark.skipif(_driver_here(), reason="this machine has a driver")
def test_what_needs_the_driver_is_not_tried_and_that_is_said(place: Place, tmp_path: Path) -> None:
    driver = library(tmp_path / "driver", "libcuda.so.1")
    needs = compiled(
        tmp_path, "_C", before="int of_a_library(void);", inside="of_a_library();", flags=(str(driver),)
    )
    files = {"vllm/__init__.py": "", "vllm/_C.abi3.so": needs, "vllm/_m.abi3.so": compiled(tmp_path, "_m")}
    report = place.run(wheel(tmp_path, files))
    assert trial(report, "vllm._C").outcome == "not tried"
    assert trial(report, "vllm._C").detail == "needs libcuda.so.1, no NVIDIA driver here"
    assert trial(report, "vllm._m").outcome == "passed"
    assert "3 not tried" in summary(report)


def test_another_library_that_lacks_is_a_failure(place: Place, tmp_path: Path) -> None:
    other = library(tmp_path / "other", "libother.so.3")
    needs = compiled(
        tmp_path, "_C", before="int of_a_library(void);", inside="of_a_library();", flags=(str(other),)
    )
    report = place.run(wheel(tmp_path, {"vllm/_C.abi3.so": needs}))
    assert trial(report, "vllm._C").outcome == "failed"
    assert trial(report, "vllm._C").detail == "libother.so.3 is not on this machine"


def test_a_library_that_is_no_module(place: Place, tmp_path: Path) -> None:
    made = library(tmp_path / "plain", "_ops.so").read_bytes()
    report = place.run(wheel(tmp_path, {"vllm/_ops.so": made}))
    assert trial(report, "vllm._ops").outcome == "passed"
    assert "no module" in trial(report, "vllm._ops").detail


def test_a_module_for_another_python_is_not_tried(place: Place, tmp_path: Path) -> None:
    name = "vllm/_C.cpython-39-x86_64-linux-gnu.so"
    report = place.run(wheel(tmp_path, {name: compiled(tmp_path, "_C")}))
    assert trial(report, "vllm._C").outcome == "not tried"
    assert "cp39" in trial(report, "vllm._C").detail


def test_what_only_the_whole_installation_has_is_not_the_wheels_fault(place: Place, tmp_path: Path) -> None:
    files = {"vllm/__init__.py": "import some_requirement\n"}
    made = wheel(tmp_path, files, tag="py3-none-any", metadata="Requires-Dist: some-requirement\n")
    assert trial(report := place.run(made), "import vllm").outcome == "not tried"
    assert "some_requirement" in trial(report, "import vllm").detail
    wheel(
        tmp_path / "links", {"some_requirement/__init__.py": ""}, name="some_requirement", tag="py3-none-any"
    )
    with pytest.raises(ResolutionError) as caught:
        place.run(made, full=True)
    assert any("some-requirement" in line for line in caught.value.details)


def test_further_requirements_take_part(place: Place, tmp_path: Path) -> None:
    links = tmp_path / "links"
    for version in ("1.0", "2.0"):
        files = {"needed/__init__.py": f"assert {version} < 2, 'too new'\n"}
        wheel(links, files, name="needed", version=version, tag="py3-none-any")
    files = {"vllm/__init__.py": "import needed\n"}
    made = wheel(tmp_path, files, tag="py3-none-any", metadata="Requires-Dist: needed\n")
    indexes = Indexes(no_index=True, find_links=(str(links),))
    report = place.run(made, full=True, indexes=indexes)
    assert "too new" in trial(report, "import vllm").detail
    report = place.run(made, full=True, indexes=indexes, further=("needed<2",))
    assert report.good
    assert report.packages["needed"] == "1.0"


def test_a_module_that_the_wheel_itself_should_hold_is_its_fault(place: Place, tmp_path: Path) -> None:
    files = {"vllm/__init__.py": "import vllm.forgotten\n"}
    report = place.run(wheel(tmp_path, files, tag="py3-none-any"))
    assert trial(report, "import vllm").outcome == "failed"
    assert "vllm.forgotten" in trial(report, "import vllm").detail


def test_a_module_that_its_record_expects_is_not_there(place: Place, tmp_path: Path) -> None:
    expected = {"extensions": [{"name": "_C", "path": "vllm/_C", "code": "none"}]}
    record = BuildRecord(
        builder="vllm-builder 0.1.0", digest="0" * 64, release="1.0", version="1.0", device="cpu",
        expectations=expected,
    )  # fmt: skip
    files = {"vllm/__init__.py": "", "vllm-1.0.dist-info/vllm-builder.json": record.to_json()}
    report = place.run(wheel(tmp_path, files, tag="py3-none-any"))
    assert not report.good
    assert trial(report, "vllm._C").outcome == "failed"
    assert "not in the wheel" in trial(report, "vllm._C").detail
    assert trial(report, "import vllm").outcome == "passed"


def test_a_wheel_for_another_machine(place: Place, tmp_path: Path) -> None:
    with pytest.raises(InstallError) as caught:
        place.run(wheel(tmp_path, {"vllm/__init__.py": ""}, tag="cp38-abi3-linux_s390x"))
    assert any("platform" in line or "tag" in line for line in caught.value.details)


def test_no_wheel(place: Place, tmp_path: Path) -> None:
    cut = wheel(tmp_path, INIT)
    cut.write_bytes(cut.read_bytes()[:200])
    (tmp_path / "vllm.whl").touch()
    for path, said in (
        (cut, "truncated"),
        (tmp_path / "vllm.whl", "is not named"),
        (tmp_path / "vllm-2.0-py3-none-any.whl", "2.0"),
    ):
        with pytest.raises(WheelError, match=said):
            place.run(path)


def test_the_environment_is_kept_where_that_is_wanted(place: Place, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    report = place.run(wheel(tmp_path, {"vllm/__init__.py": ""}, tag="py3-none-any"), keep=kept)
    assert report.kept == str(kept)
    assert subprocess.run([kept / "env/bin/python", "-I", "-c", "import vllm"], check=False).returncode == 0


def _command(*arguments: str | Path, cwd: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "vllm_builder", "smoke", *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PIP_NO_INDEX": "1", **environ},
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_command(tmp_path: Path) -> None:
    files = {"vllm/__init__.py": "", "vllm/_a.abi3.so": compiled(tmp_path, "_a")}
    good = wheel(tmp_path / "good", files)
    crash = compiled(tmp_path, "_b", inside="__builtin_trap();")
    bad = wheel(tmp_path / "bad", {**files, "vllm/_b.abi3.so": crash})
    cache = ("--cache-dir", tmp_path / "cache")
    ran = _command(good, *cache, cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert "not tried: it was not asked for (--serve)" in ran.stdout
    assert "3 passed, 2 not tried" in ran.stdout
    ran = _command(bad, *cache, cwd=tmp_path)
    assert ran.returncode == 83
    assert "SIGILL" in ran.stdout
    assert "next:" in ran.stderr
    ran = _command(bad, *cache, "--json", cwd=tmp_path)
    assert ran.returncode == 83
    document = json.loads(ran.stdout)
    assert document["good"] is False
    assert document["error"]["exit_code"] == 83
    assert {t["name"]: t["outcome"] for t in document["trials"]}["vllm._b"] == "failed"
    assert all(json.loads(line) for line in ran.stderr.splitlines())
    ran = _command(good, *cache, "--json", cwd=tmp_path)
    assert ran.returncode == 0
    assert json.loads(ran.stdout)["good"] is True
    ran = _command(good, *cache, "--keep", tmp_path, cwd=tmp_path)
    assert ran.returncode == 10
    assert "is not empty" in ran.stderr
