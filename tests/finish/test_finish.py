"""The finished wheel: what is in it, and that its bytes follow from its content."""

from __future__ import annotations

import json
import stat
import zipfile
from pathlib import Path

import pytest
from finish_helpers import INFO, MACHINE, finished, library, make_wheel, members, record
from installer.records import parse_record_file
from installer.sources import WheelFile as InstallerWheel

from vllm_builder.errors import WheelError
from vllm_builder.events import Event, Note
from vllm_builder.stages.finish import FinishSpec
from vllm_builder.wheelfile.record import BUILD_RECORD, SBOM, parse_build_record


def test_the_record_and_the_sbom_travel_in_dist_info(tmp_path: Path) -> None:
    found = members(finished(make_wheel(tmp_path / "in"), tmp_path / "out").wheel)
    assert parse_build_record(found[f"{INFO}/{BUILD_RECORD}"]) == record()
    assert json.loads(found[f"{INFO}/{SBOM}"])["specVersion"] == "1.6"


def test_torch_is_required_and_nothing_else_changes(tmp_path: Path) -> None:
    wheel = make_wheel(tmp_path / "in")
    made = finished(wheel, tmp_path / "out")
    before, after = members(wheel), members(made.wheel)
    assert made.removed == ("torch==9.9.9",)
    assert after[f"{INFO}/METADATA"] == before[f"{INFO}/METADATA"].replace(b"torch==9.9.9", b"torch~=2.9.1")
    same = set(before) - {f"{INFO}/METADATA", f"{INFO}/RECORD"}
    assert {name: after[name] for name in same} == {name: before[name] for name in same}
    assert set(after) - set(before) == {f"{INFO}/{BUILD_RECORD}", f"{INFO}/{SBOM}"}


def test_without_a_pin_the_metadata_stays(tmp_path: Path) -> None:
    wheel = make_wheel(tmp_path / "in")
    made = finished(wheel, tmp_path / "out", FinishSpec())
    assert members(made.wheel)[f"{INFO}/METADATA"] == members(wheel)[f"{INFO}/METADATA"]


def test_an_installer_accepts_the_new_record(tmp_path: Path) -> None:
    made = finished(make_wheel(tmp_path / "in", {"vllm/ä,b.txt": b"x"}), tmp_path / "out")
    with InstallerWheel.open(made.wheel) as source:
        source.validate_record(validate_contents=True)
        listed = [line[0] for line in parse_record_file(source.read_dist_info("RECORD").splitlines())]
    assert listed == list(members(made.wheel))
    assert listed[-1] == f"{INFO}/RECORD"
    assert all(name.startswith(INFO) for name in listed[listed.index(f"{INFO}/METADATA") :])


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_the_bytes_follow_from_the_content_alone(tmp_path: Path, compression: int) -> None:
    files = {"vllm/large.bin": bytes(range(256)) * 9000, "vllm/tool": b"#!/bin/sh\n"}
    first = make_wheel(tmp_path / "a", files, executable=frozenset({"vllm/tool"}))
    second = make_wheel(
        tmp_path / "b",
        files,
        executable=frozenset({"vllm/tool"}),
        order=-1,
        compression=compression,
        when=(2030, 1, 1, 0, 0, 0),
    )
    assert first.read_bytes() != second.read_bytes()
    one, two = finished(first, tmp_path / "out-a").wheel, finished(second, tmp_path / "out-b").wheel
    assert one.read_bytes() == two.read_bytes()
    # And of a finished wheel finish makes the same one.
    assert finished(one, tmp_path / "out-c").wheel.read_bytes() == one.read_bytes()


def test_times_and_modes_are_normalised_and_programs_stay_executable(tmp_path: Path) -> None:
    wheel = make_wheel(tmp_path / "in", {"vllm/tool": b"#!/bin/sh\n"}, executable=frozenset({"vllm/tool"}))
    made = finished(wheel, tmp_path / "out", FinishSpec(epoch=1700000000))
    with zipfile.ZipFile(made.wheel) as archive:
        assert {info.date_time for info in archive.infolist()} == {(2023, 11, 14, 22, 13, 20)}
        modes = {info.filename: info.external_attr >> 16 for info in archive.infolist()}
    assert modes.pop("vllm/tool") == stat.S_IFREG | 0o755
    assert set(modes.values()) == {stat.S_IFREG | 0o644}


def test_a_wheel_without_libraries_fits_every_machine(tmp_path: Path) -> None:
    events: list[Event] = []
    made = finished(make_wheel(tmp_path / "in"), tmp_path / "out", emit=events.append)
    assert (made.platform, made.wheel.name) == ("any", "vllm-1.2.3+cpu-py3-none-any.whl")
    assert events == []


def test_name_and_tags_say_the_true_platform_together(tmp_path: Path) -> None:
    code = library(tmp_path / "c")
    wheel = make_wheel(tmp_path / "in", {"vllm/_C.abi3.so": code}, tag=f"cp38.cp39-abi3-linux_{MACHINE}")
    made = finished(wheel, tmp_path / "out")
    assert made.platform.startswith("manylinux_2_")
    assert made.wheel.name == f"vllm-1.2.3+cpu-cp38.cp39-abi3-{made.platform}.whl"
    text = members(made.wheel)[f"{INFO}/WHEEL"].decode()
    tags = [line for line in text.splitlines() if line.startswith("Tag:")]
    assert tags == [f"Tag: cp38-abi3-{made.platform}", f"Tag: cp39-abi3-{made.platform}"]


def test_what_only_the_machine_can_bring_is_promised_by_no_tag(tmp_path: Path) -> None:
    library(tmp_path / "numa", "-Wl,-soname,libnuma.so.1")
    code = library(tmp_path / "c", "-Wl,--no-as-needed", str(tmp_path / "numa" / "x.so"))
    wheel = make_wheel(tmp_path / "in", {"vllm/_C.abi3.so": code}, tag=f"cp38-abi3-linux_{MACHINE}")
    events: list[Event] = []
    made = finished(wheel, tmp_path / "out", emit=events.append)
    assert made.platform == f"linux_{MACHINE}"
    assert made.wheel.name == wheel.name
    (note,) = [event for event in events if isinstance(event, Note)]
    assert "libnuma.so.1" in note.message


def test_a_library_in_a_wheel_for_every_machine_is_refused(tmp_path: Path) -> None:
    wheel = make_wheel(tmp_path / "in", {"vllm/_C.abi3.so": library(tmp_path / "c")})
    with pytest.raises(WheelError):
        finished(wheel, tmp_path / "out")
    assert not list((tmp_path / "out").glob("*"))


def test_half_a_wheel_is_refused(tmp_path: Path) -> None:
    wheel = make_wheel(tmp_path / "in")
    wheel.write_bytes(wheel.read_bytes()[:-200])
    with pytest.raises(WheelError):
        finished(wheel, tmp_path / "out")
