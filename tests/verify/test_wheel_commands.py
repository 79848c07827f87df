"""The commands inspect and compare as a person or a script meets them."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from made_wheels import MODULE, gpu_code, make, metadata, module
from range_server import serving

import vllm_builder
from vllm_builder.cli import main, screen
from vllm_builder.errors import WheelError

Typed = Callable[..., tuple[int, str, str]]


@pytest.fixture
def types(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Typed:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("vllm_builder.stages.source.http.BACKOFF", 0.0)
    for name in list(os.environ):
        if name.startswith(("VLLM_", "PIP_")) or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)

    def run(*arguments: str | Path) -> tuple[int, str, str]:
        screen.use_json(False)
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main([str(argument) for argument in arguments])
        screen.use_json(False)
        said = capsys.readouterr()
        assert isinstance(end.value.code, int)
        return end.value.code, said.out, said.err

    return run


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    library = module(
        folder, MODULE, "libtorch.so", "libnuma.so.1", gpu=gpu_code(), flags=("-g", "-Wl,-rpath,/build/x")
    )
    long = {f"demo/{'deep' * 12}/{'er' * 20}{n}.json": b"x" * (10 + n) for n in range(12)}
    return make(
        folder / "out",
        {"demo/_C.abi3.so": library, **long},
        name="demo-1.0-cp38-abi3-manylinux_2_28_x86_64.whl",
    )


def test_the_table_fits_and_says_what_matters_first(types: Typed, wheel: Path) -> None:
    code, out, err = types("inspect", wheel)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert max(map(len, lines)) <= 100
    assert "the file WHEEL says cp38-abi3-linux_x86_64" in lines[1]
    assert "libnuma.so.1" in lines[2]
    assert "debug info" in lines[3]
    (row,) = [line for line in lines if line.startswith("_C ")]
    for part in ("8.0:1 9.0a:2", "8.0:1 (8.7)", "static", "yes", "stable >=2.10"):
        assert part in row
    assert "_C: RUNPATH /build/x" in out or "_C: RPATH /build/x" in out


def test_a_wheel_as_json(types: Typed, wheel: Path) -> None:
    code, out, _ = types("inspect", wheel, "--json")
    assert code == 0
    assert json.loads(out)["modules"][0]["sass"] == {"8.0": 1, "9.0a": 2}


def test_without_libraries(types: Typed, wheel: Path) -> None:
    code, out, _ = types("inspect", wheel, "--no-libraries")
    assert code == 0
    assert "not read: 1 libraries" in out.splitlines()[1]


@pytest.mark.parametrize("command", [("inspect",), ("compare", "WHEEL")])
def test_what_is_no_wheel(types: Typed, wheel: Path, tmp_path: Path, command: tuple[str, ...]) -> None:
    start = [wheel if part == "WHEEL" else part for part in command]
    (tmp_path / "demo-2.0-py3-none-any.whl").write_text("no zip")
    for wrong in (
        "nowhere-1.0-py3-none-any.whl",
        tmp_path,
        tmp_path / "demo-2.0-py3-none-any.whl",
        "ftp://x/y.whl",
    ):
        code, out, err = types(*start, wrong)
        assert (code, out) == (80, "")
        assert "Traceback" not in err
    code, out, _ = types(*start, "nowhere-1.0-py3-none-any.whl", "--json")
    assert (code, json.loads(out)["exit_code"]) == (80, 80)


def test_an_address_with_credentials(types: Typed, wheel: Path) -> None:
    with serving(wheel.read_bytes()) as server:
        address = f"{server.url}/{wheel.name}?sign=hidden".replace("//", "//me:secret@")
        code, out, err = types("inspect", address, "--json")
        assert (code, json.loads(out)["location"]) == (0, f"{server.url}/{wheel.name}")
        server.mode = "404"
        refused = types("inspect", address)
        assert refused[0] == 80
        assert "404" in refused[2]
        server.mode = "whole"
        noted = types("inspect", address)
        assert noted[0] == 0
        assert "downloaded whole" in noted[2]
        for text in (out, err, *refused[1:], *noted[1:]):
            assert "secret" not in text
            assert "hidden" not in text


def test_comparing(types: Typed, wheel: Path, tmp_path: Path) -> None:
    assert types("compare", wheel, wheel) == (0, "identical: the same bytes\n", "")
    other = make(tmp_path / "other", {"demo/x.py": b""}, name=wheel.name)
    code, out, _ = types("compare", wheel, other)
    assert code == 1
    assert "- demo/_C.abi3.so" in out
    assert "+ demo/x.py" in out
    assert "more; --json lists them all" in out
    assert out.endswith("different\n")
    code, out, _ = types("compare", wheel, other, "--json")
    assert (code, json.loads(out)["same_content"]) == (1, False)
    assert types("compare", wheel, other, "-q") == (1, "", "")


def test_one_bad_library_does_not_hide_the_others(types: Typed, tmp_path: Path) -> None:
    library = module(tmp_path, MODULE)
    files = {"demo/_C.abi3.so": library[:2000], "demo/_D.abi3.so": library}
    bad = make(tmp_path / "a", files)
    code, out, _ = types("inspect", bad)
    assert code == 0
    assert any(line.startswith("_D ") for line in out.splitlines())
    assert any("_C.abi3.so" in line and "cannot be read" in line for line in out.splitlines())
    sound = make(tmp_path / "b", files | {"demo/_C.abi3.so": library})
    code, out, _ = types("compare", bad, sound)
    assert code == 1
    assert "libraries that cannot be read\n  - demo/_C.abi3.so" in out


def test_a_wheel_behind_an_address_is_verified(types: Typed, wheel: Path) -> None:
    with serving(wheel.read_bytes()) as server:
        address = f"{server.url}/{wheel.name}"
        for mode in ("good", "whole"):
            server.mode = mode
            code, out, _ = types("verify", address, "--cache-dir", "cache", "--json")
            assert code == 81, mode  # of a platform that it does not fit, among others
            found = json.loads(out)
            here = hashlib.sha256(wheel.read_bytes()).hexdigest()
            assert found["sha256"] == (here if mode == "whole" else "")


def test_offline_no_address_is_asked(types: Typed, wheel: Path) -> None:
    with serving(wheel.read_bytes()) as server:
        address = f"{server.url}/{wheel.name}"
        for options in ([address], [wheel, "--against", address]):
            code, _, err = types("verify", *options, "--offline", "--cache-dir", "cache")
            assert code == 23
            assert "next:" in err
        assert server.seen == []


def test_smoke_takes_files_alone(types: Typed, wheel: Path) -> None:
    code, _, err = types("smoke", f"https://example.org/{wheel.name}", "--cache-dir", "cache")
    assert code == 80
    assert "Download the wheel" in err


def test_a_requirement_that_is_none_is_remarked(types: Typed, tmp_path: Path) -> None:
    bad = make(tmp_path, {"demo/x.py": b""}, metadata=metadata("torch @@ 1", "numpy"))
    assert "requires 'torch @@ 1', which is no valid requirement" in types("inspect", bad)[1]


def test_a_long_value_is_shown_by_its_first_line(types: Typed, tmp_path: Path) -> None:
    license_ = metadata().replace("Name:", "License: first line\n        second line\nName:")
    one = make(tmp_path / "a", {"demo/x.py": b""}, metadata=license_)
    two = make(tmp_path / "b", {"demo/x.py": b""})
    out = types("compare", one, two)[1]
    assert "license: first line ..." in out
    assert "second line" not in out


def test_the_same_from_python(wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert [m.library.name for m in vllm_builder.inspect(str(wheel)).modules] == ["demo/_C.abi3.so"]
    report = vllm_builder.verify(wheel, arch="sm_90", offline=True, cache_dir="cache", environ={})
    assert not report.good
    assert set(report.answers) == {"9.0"}
    assert vllm_builder.compare(wheel, str(wheel)).identical
    with pytest.raises(WheelError):
        vllm_builder.smoke(tmp_path / "none-1.0-py3-none-any.whl", cache_dir=tmp_path / "cache", environ={})
    with pytest.raises(WheelError, match="address"):
        vllm_builder.smoke("https://example.org/none-1.0-py3-none-any.whl", cache_dir=tmp_path / "cache")
    assert [name for name in vllm_builder.__all__ if not hasattr(vllm_builder, name)] == []


@pytest.mark.parametrize("redirection", [">&-", "2>&-", ">&- 2>&-"])
def test_a_closed_stream(wheel: Path, redirection: str) -> None:
    command = f'"{sys.executable}" -m vllm_builder inspect "{wheel}" {redirection}'
    done = subprocess.run(["sh", "-c", command], capture_output=True, check=False, timeout=60)
    assert done.returncode == 0
    assert done.stderr == b""
