"""Faults in METADATA and in the build record of a sound wheel, each of which has to be found, by the command line."""

from __future__ import annotations

from pathlib import Path

import pytest
from verify_helpers import (
    INFO,
    NAME,
    Sketch,
    Verify,
    run,
)


def test_a_requirement_deleted(wheel: Sketch, verify: Verify) -> None:
    outcome = verify(wheel.having(requirements=("regex", "numpy")))
    assert outcome.status == 81
    assert outcome.found("error") == {"requirements"}
    assert "outlines==0.1.11" in outcome.findings("error")[0]["what"]


def test_a_requirement_added_or_changed(wheel: Sketch, verify: Verify) -> None:
    outcome = verify(wheel.having(requirements=("regex", "numpy<3", "outlines==0.1.11", "left-pad")))
    assert outcome.status == 0
    assert [f["check"] for f in outcome.findings("warning")] == ["requirements", "requirements"]


def test_a_wheel_for_another_python_than_planned(wheel: Sketch, verify: Verify, tmp_path: Path) -> None:
    tag = "cp311-abi3-linux_x86_64"
    path = wheel.having(tag=tag).write(tmp_path, name=NAME.replace("cp38", "cp311"))
    assert verify(path).found("error") == {"identity"}


def test_torch_pinned_anew_is_no_fault(wheel: Sketch, verify: Verify) -> None:
    pinned = wheel.having(requirements=(*wheel.requirements, "torch==2.11.*", 'foo; extra == "bar"'))
    assert verify(pinned, "--strict").status == 0


def test_another_version_than_planned(wheel: Sketch, verify: Verify, tmp_path: Path) -> None:
    from vllm_builder.cache import Cache
    from vllm_builder.stages.verify.expectations import Expectations
    from vllm_builder.stages.verify.verifying import verify as check

    expected = Expectations(release="0.9.2", device="cuda", version="0.9.2+cu128")
    report = check(wheel.write(tmp_path), expected, cache=Cache(tmp_path), offline=True)
    assert "identity" in {f.check for f in report.findings if f.severity == "error"}


@pytest.mark.parametrize("pin", ["torch==2.7.0", "torch~=2.12.0", "torch<2.11; platform_system == 'Linux'"])
def test_a_wheel_that_asks_for_another_torch(pin: str, wheel: Sketch, verify: Verify) -> None:
    outcome = verify(wheel.having(requirements=(*wheel.requirements, pin)))
    assert outcome.status == 81
    assert outcome.found("error") == {"requirements"}
    assert pin[:9] in outcome.findings("error")[0]["what"]


def test_by_the_record_alone_it_asks_for_another_torch(
    wheel: Sketch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = wheel.having(requirements=(*wheel.requirements, "torch==2.7.0")).write(tmp_path)
    outcome = run(capsys, path, "--cache-dir", str(tmp_path / "cache"))
    assert outcome.found("error") == {"requirements"}
    assert "compiled against torch 2.11.0+cu130" in outcome.findings("error")[0]["what"]


@pytest.mark.parametrize(
    "pin",
    ["torch~=2.11.0", "torch==2.11.0", "torch==2.7.0; sys_platform == 'darwin'", "torch==2.7; extra == 'x'"],
)
def test_a_wheel_that_asks_for_its_torch(pin: str, wheel: Sketch, verify: Verify) -> None:
    assert verify(wheel.having(requirements=(*wheel.requirements, pin)), "--strict").status == 0


def test_the_torch_that_the_build_wrote_was_taken_out(wheel: Sketch, verify: Verify) -> None:
    pinned = wheel.having(pinned="torch~=2.11.0")
    assert verify(pinned.having(requirements=(*wheel.requirements, "torch~=2.11.0")), "--strict").status == 0
    outcome = verify(pinned)
    assert outcome.status == 81
    assert outcome.findings("error")[0]["what"] == "The requirement torch~=2.11.0 is not in the wheel."


def test_a_requirement_that_is_none(wheel: Sketch, verify: Verify) -> None:
    outcome = verify(wheel.having(requirements=(*wheel.requirements, "torch @@ 2.7")))
    assert outcome.status == 81
    (finding,) = outcome.findings("error")
    assert finding["what"] == "'torch @@ 2.7' is no valid requirement."
    assert not outcome.findings("warning", "requirements")


@pytest.mark.parametrize("content", [b"{", b'{"a": 1}'])
def test_a_build_record_that_cannot_be_read_says_what_to_do(
    content: bytes, wheel: Sketch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from vllm_builder.cli import main

    path = wheel.having(record=False).put(f"{INFO}/vllm-builder.json", content).write(tmp_path)
    with pytest.raises(SystemExit) as end:
        main(["verify", str(path), "--offline", "--cache-dir", str(tmp_path)])
    assert end.value.code == 80
    said = capsys.readouterr().err
    assert "build record cannot be read" in said
    assert "next:" in said


def test_a_requirement_that_never_counts_is_as_good_as_deleted(wheel: Sketch, verify: Verify) -> None:
    void = "outlines==0.1.11; python_version < '3'"
    outcome = verify(wheel.having(requirements=("regex", "numpy", void)))
    assert outcome.status == 81
    assert "outlines==0.1.11" in outcome.findings("error", "requirements")[0]["what"]
    narrower = "outlines==0.1.11; sys_platform == 'linux'"
    outcome = verify(wheel.having(requirements=("regex", "numpy", narrower)))
    assert (outcome.status, outcome.found("warning")) == (0, {"requirements"})
