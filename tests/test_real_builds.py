"""Real releases, really compiled. Minutes, not seconds: deselect with ``-m "not realbuild"``."""

from __future__ import annotations

import email.parser
import json
import os
import re
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from packaging.requirements import Requirement

pytestmark = pytest.mark.realbuild

TORCH = "2.13.0"
FAMILY = {"torch", "torchvision", "torchaudio", "torchcodec", "xformers"}
Sdist = Callable[[str], Path]


@pytest.fixture(scope="module")
def cache(real_cache: Path) -> Path:
    return real_cache


def _command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "vllm_builder", *map(str, arguments)]


def _environ(**changes: str) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("VLLM_", "CCACHE_", "MAX_JOBS"))}
    return kept | changes


def _build(*arguments: str | Path, **changes: str) -> dict[str, Any]:
    run = subprocess.run(
        _command("build", *arguments, "--json"),
        env=_environ(**changes),
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout[-6000:] + run.stderr[-3000:]
    result: dict[str, Any] = json.loads(run.stdout)
    return result


@pytest.fixture(scope="module")
def cpu(real_cpu: dict[str, Any]) -> dict[str, Any]:
    return real_cpu


def test_cpu_wheel_is_abi3_and_carries_the_true_version(cpu: dict[str, Any]) -> None:
    wheel = Path(cpu["wheel"])
    assert re.fullmatch(r"vllm-0\.9\.2\+cpu-cp38-abi3-(many)?linux_\w+\.whl", wheel.name)
    assert not cpu["from_store"]
    with zipfile.ZipFile(wheel) as archive:
        assert archive.testzip() is None
        assert [n for n in archive.namelist() if n.endswith(".so")] == ["vllm/_C.abi3.so"]


def _requirements(lines: list[str]) -> set[str]:
    return {str(Requirement(line)) for line in lines}


def _metadata(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        name = next(n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        message = email.parser.Parser().parsestr(archive.read(name).decode())
    return [r for r in message.get_all("Requires-Dist", []) if "extra ==" not in r]


def _upstream(folder: Path, name: str) -> list[str]:
    """What the release's own requirement file says, read as upstream's setup.py reads it."""
    found = []
    for line in (folder / name).read_text().splitlines():
        if line.startswith("-r "):
            found += _upstream(folder, line.split()[1])
        elif line.strip() and not line.startswith(("#", "--")):
            found.append(re.split(r"\s+#", line)[0].strip())
    return found


def _unpacked(archive: Path, folder: Path) -> Path:
    folder.mkdir()
    subprocess.run(["tar", "xzf", archive, "-C", folder, "--strip-components=1"], check=True)
    return folder


def _wanted(tree: Path, device: str) -> set[str]:
    """Upstream's own requirements for a device, less the torch family."""
    new = tree / "requirements" / f"{device}.txt"
    folder, name = (new.parent, new.name) if new.exists() else (tree, f"requirements-{device}.txt")
    upstream = _requirements(_upstream(folder, name))
    return {r for r in upstream if Requirement(r).name.lower() not in FAMILY}


def test_requires_dist_is_upstreams_less_the_torch_family(
    cpu: dict[str, Any], sdist: Sdist, tmp_path: Path
) -> None:
    tree = _unpacked(sdist("0.9.2"), tmp_path / "tree")
    wanted = _wanted(tree, "cpu")
    assert len(wanted) < len(_requirements(_upstream(tree / "requirements", "cpu.txt")))
    assert _requirements(_metadata(Path(cpu["wheel"]))) == {*wanted, f"torch~={TORCH}"}


def test_the_wheel_installs_and_computes_what_torch_computes(
    cpu: dict[str, Any], cache: Path, tmp_path: Path
) -> None:
    from vllm_builder.indexes import read_indexes
    from vllm_builder.stages.environment.uv import run_uv

    python = tmp_path / "env" / "bin" / "python"
    # torch comes from the build environment's lock, so that the new environment gets the same build.
    plan = json.loads(
        subprocess.run(
            _command("plan", *cpu["arguments"], "--cache-dir", cache, "--json"),
            env=_environ(),
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    )["plan"]
    lock = [line for line in plan["environment"]["lock"] if not line.startswith(("cmake", "ninja", "ccache"))]
    base = plan["environment"]["python"]["path"]
    backend = plan["environment"]["torch_backend"]
    further = ["--torch-backend", backend] if backend else []
    for arguments in (
        ["venv", "--no-project", "--python", base, str(tmp_path / "env")],
        ["pip", "install", "--python", str(python), "--no-deps", *further, *lock],
        ["pip", "install", "--python", str(python), "--no-deps", str(cpu["wheel"])],
    ):
        done = run_uv(arguments, environ=os.environ, indexes=read_indexes())
        assert done.returncode == 0, done.stderr
    program = """
import glob, sysconfig, torch
(library,) = glob.glob(sysconfig.get_path("purelib") + "/vllm/_C.abi3.so")
torch.ops.load_library(library)
torch.manual_seed(0)
x = torch.randn(7, 64)
out = torch.empty(7, 32)
torch.ops._C.silu_and_mul(out, x)
expected = torch.nn.functional.silu(x[:, :32]) * x[:, 32:]
difference = (out - expected).abs().max().item()
assert difference <= 1e-6, difference
print("difference", difference)
"""
    ran = subprocess.run(
        [python, "-I", "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_the_second_time_it_comes_from_the_store(cpu: dict[str, Any], cache: Path, tmp_path: Path) -> None:
    again = _build(*cpu["arguments"], "--workspace", tmp_path / "other", "--cache-dir", cache)
    assert again["from_store"]
    assert (again["digest"], again["sha256"]) == (cpu["digest"], cpu["sha256"])
    assert Path(again["wheel"]).read_bytes() == Path(cpu["wheel"]).read_bytes()


def test_in_another_folder_the_compiler_cache_answers_everything(
    cpu: dict[str, Any], cache: Path, tmp_path: Path
) -> None:
    again = _build(*cpu["arguments"], "--workspace", tmp_path / "elsewhere", "--cache-dir", cache, "--force")
    facts = again["record"]["compile"]
    assert not again["from_store"]
    assert facts["cache"]["misses"] == 0, facts
    assert facts["cache"]["hits"] > 0, facts


@pytest.mark.long
def test_another_folder_another_cache_and_no_compiler_cache_give_the_same_bytes(
    cpu: dict[str, Any], cache: Path, tmp_path: Path
) -> None:
    other = tmp_path / "a-cache-with-a-longer-name"
    again = _build(
        *cpu["arguments"],
        *("--workspace", tmp_path / "deeper" / "down", "--cache-dir", other, "--compiler-cache", "off"),
    )
    assert not again["from_store"]
    assert again["digest"] == cpu["digest"]
    assert again["sha256"] == cpu["sha256"]
    with zipfile.ZipFile(again["wheel"]) as archive:
        for name in archive.namelist():
            content = archive.read(name)
            for place in (tmp_path, cache, Path(cpu["workspace"])):
                assert os.fsencode(place) not in content, name


def _descendants(text: str) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter(["cwd", "cmdline"]):
        words = " ".join(process.info["cmdline"] or ())
        if text in words or text in str(process.info["cwd"] or ""):
            found.append(process)
    return found


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT], ids=["SIGKILL", "Ctrl-C"])
def test_a_build_that_was_ended_in_mid_compile_goes_on(
    cache: Path, sdist: Sdist, tmp_path: Path, number: signal.Signals
) -> None:
    # Without a compiler cache, so that what was done before can only come from the tree.
    arguments = [
        *(
            "v0.9.2",
            "--device",
            "cpu",
            "--torch",
            TORCH,
            "--source",
            str(sdist("0.9.2")),
            "--compiler-cache",
            "off",
        ),
        *(
            "--workspace",
            str(tmp_path / "build"),
            "--cache-dir",
            str(cache),
            "--force",
            "--variable",
            f"VLLM_X={number}",
        ),
    ]
    process = subprocess.Popen(
        _command("build", *arguments, "--json"),
        env=_environ(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    for line in process.stderr:
        event = json.loads(line)
        if event["event"] == "Progress" and event["stage"] == "compile" and event["done"] >= 2:
            process.send_signal(number)
            break
    out, _ = process.communicate(timeout=120)
    assert process.returncode == (-signal.SIGKILL if number == signal.SIGKILL else 130), out
    deadline = time.monotonic() + 30
    while (left := _descendants(str(tmp_path / "build"))) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert left == [], [p.info for p in left]
    assert not list((tmp_path / "build").glob("wheels/*"))
    result = _build(*arguments)
    assert result["record"]["compile"]["resumed_from"] >= 2
    assert Path(result["wheel"]).is_file()


@pytest.mark.long
def test_0_9_0_1_for_cpu(cache: Path, sdist: Sdist, tmp_path: Path) -> None:
    result = _build(
        *("0.9.0.1", "--device", "cpu", "--torch", TORCH, "--source", sdist("0.9.0.1")),
        *("--workspace", tmp_path, "--cache-dir", cache),
    )
    assert re.fullmatch(r"vllm-0\.9\.0\.1\+cpu-cp38-abi3-(many)?linux_\w+\.whl", Path(result["wheel"]).name)


# Until 0.7 upstream's setup.py gives the requirements for CUDA to the empty device.
@pytest.mark.parametrize(
    ("version", "requirements"),
    [("0.6.4.post1", "cuda"), ("0.9.2", "common"), ("0.20.0", "common"), ("0.33.0", "common")],
)
def test_empty(version: str, requirements: str, cache: Path, sdist: Sdist, tmp_path: Path) -> None:
    result = _build(
        *(
            version,
            "--device",
            "empty",
            "--source",
            sdist(version),
            "--workspace",
            tmp_path,
            "--cache-dir",
            cache,
        ),
    )
    wheel = Path(result["wheel"])
    assert wheel.name.startswith(f"vllm-{version}+empty-")
    assert _requirements(_metadata(wheel)) == _wanted(
        _unpacked(sdist(version), tmp_path / "tree"), requirements
    )
    with zipfile.ZipFile(wheel) as archive:
        rust = [n for n in archive.namelist() if n.endswith(".so")]
    if version == "0.33.0":
        # Its Rust part is optional: built, or said to be left out, never dropped in silence.
        assert rust or result["record"]["compile"]["left_out"]
    else:
        assert rust == []
        assert wheel.name.endswith("-py3-none-any.whl")


def _without_network() -> list[str]:
    """A command prefix: a network namespace in which there is nothing."""
    prefix = ["unshare", "--map-root-user", "--net"]
    try:
        made = subprocess.run([*prefix, "true"], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no unshare on this machine")
    if made.returncode:
        pytest.skip(f"the kernel forbids network namespaces: {made.stderr.strip()}")
    return prefix


def test_a_bundle_is_all_that_a_machine_without_network_needs(
    cache: Path, sdist: Sdist, tmp_path: Path
) -> None:
    prefix = _without_network()
    arguments = ["v0.9.2", "--device", "cpu", "--torch", TORCH, "--source", str(sdist("0.9.2"))]
    bundle = tmp_path / "usb" / "vllm.tar"
    made = subprocess.run(
        _command("bundle", *arguments, "--cache-dir", cache, "--output", bundle, "--json"),
        env=_environ(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 0, made.stdout[-3000:] + made.stderr[-3000:]
    digest = json.loads(made.stdout)["digest"]
    home = tmp_path / "closed"
    home.mkdir()
    # Another person's: no cache, none of uv's, no settings of pip.
    environ = {"PATH": os.environ["PATH"], "HOME": str(home), "PYTHONPATH": os.pathsep.join(sys.path)}
    environ |= {"PIP_CONFIG_FILE": os.devnull, "UV_CACHE_DIR": str(home / "uv")}

    def closed(*command: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*prefix, *map(str, command)], cwd=home, env=environ, capture_output=True, text=True, check=False
        )

    interfaces = closed("cat", "/proc/net/dev").stdout.splitlines()[2:]
    assert [line.split(":")[0].strip() for line in interfaces] in ([], ["lo"])
    run = closed(*_command("build", "--bundle", bundle, "--cache-dir", home / "cache", "--offline", "--json"))
    assert run.returncode == 0, run.stdout[-6000:] + run.stderr[-3000:]
    result = json.loads(run.stdout)
    assert result["digest"] == digest
    assert not result["from_store"]
    wheel = Path(result["wheel"])
    assert re.fullmatch(r"vllm-0\.9\.2\+cpu-cp38-abi3-(many)?linux_\w+\.whl", wheel.name)
    with zipfile.ZipFile(wheel) as archive:
        assert "vllm/_C.abi3.so" in archive.namelist()
