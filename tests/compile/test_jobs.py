"""How many compilers at once."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from vllm_builder.stages.compile.jobs import GIB, auto_jobs, memory_for_jobs


def machine(root: Path, files: dict[str, str]) -> Path:
    for name, text in {"proc/meminfo": "MemAvailable: 1073741824 kB\n", **files}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


@pytest.fixture(autouse=True)
def many_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(64)))


def test_cores(tmp_path: Path) -> None:
    assert auto_jobs("cpu", root=machine(tmp_path, {})) == (64, "64 cores")


@pytest.mark.parametrize(("device", "jobs"), [("cpu", 10), ("cuda", 4)])
def test_free_memory(tmp_path: Path, device: str, jobs: int) -> None:
    root = machine(tmp_path, {"proc/meminfo": f"MemTotal: 9 kB\nMemAvailable: {21 * GIB // 1024} kB\n"})
    found, reason = auto_jobs(device, root=root)  # type: ignore[arg-type]
    assert found == jobs
    assert "21.0 GiB" in reason


def test_never_less_than_one(tmp_path: Path) -> None:
    assert auto_jobs("cuda", root=machine(tmp_path, {"proc/meminfo": "MemAvailable: 10 kB\n"}))[0] == 1


def test_cgroup_version_2(tmp_path: Path) -> None:
    root = machine(
        tmp_path,
        {
            "proc/self/cgroup": "0::/a/b\n",
            "sys/fs/cgroup/a/memory.max": f"{17 * GIB}\n",
            "sys/fs/cgroup/a/memory.current": f"{10 * GIB}\n",
            "sys/fs/cgroup/a/memory.stat": f"anon 5\ninactive_file {4 * GIB}\n",
            "sys/fs/cgroup/a/b/memory.max": "max\n",
            "sys/fs/cgroup/a/b/cpu.max": "max 100000\n",
        },
    )
    jobs, reason = auto_jobs("cpu", root=root)
    assert (jobs, "11.0 GiB" in reason, "container" in reason) == (5, True, True)


def test_cgroup_version_1(tmp_path: Path) -> None:
    root = machine(
        tmp_path,
        {
            "proc/self/cgroup": "4:memory:/docker/x\n3:cpu,cpuacct:/docker/x\n",
            # In a container the mount is its own group; the path of the host is not there.
            "sys/fs/cgroup/memory/memory.limit_in_bytes": f"{9 * GIB}\n",
            "sys/fs/cgroup/memory/memory.usage_in_bytes": "0\n",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "250000\n",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
        },
    )
    assert auto_jobs("cpu", root=root) == (2, "a CPU quota of 2.5")


def test_no_limit_in_version_1_is_no_limit(tmp_path: Path) -> None:
    root = machine(
        tmp_path,
        {
            "proc/self/cgroup": "4:memory:/\n3:cpu:/\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
        },
    )
    assert auto_jobs("cpu", root=root)[0] == 64


def test_a_machine_that_tells_nothing(tmp_path: Path) -> None:
    assert auto_jobs("cpu", root=tmp_path) == (64, "64 cores")


def test_measured_peaks_count_before_the_default(tmp_path: Path) -> None:
    root = machine(tmp_path, {"proc/meminfo": f"MemAvailable: {21 * GIB // 1024} kB\n"})
    peaks = [2 * GIB] * 9 + [8 * GIB]
    found, reason = auto_jobs("cuda", root=root, peaks=peaks)
    # The one heavy unit is no reason to run fewer light ones: the schedule bounds it.
    assert found == 10
    assert "10 units were measured" in reason
    assert auto_jobs("cuda", root=root, peaks=peaks[:3])[0] == 4


def test_every_thread_of_nvcc_needs_its_memory(tmp_path: Path) -> None:
    root = machine(tmp_path, {"proc/meminfo": f"MemAvailable: {21 * GIB // 1024} kB\n"})
    assert auto_jobs("cuda", root=root, nvcc_threads=2)[0] == 2
    assert auto_jobs("cpu", root=root, nvcc_threads=2)[0] == 10


def test_memory_for_all_jobs(tmp_path: Path) -> None:
    root = machine(tmp_path, {"proc/meminfo": f"MemAvailable: {21 * GIB // 1024} kB\n"})
    assert memory_for_jobs(root) == 20 * GIB
    machine(tmp_path, {"proc/meminfo": f"MemAvailable: {2 * GIB // 1024} kB\n"})
    assert memory_for_jobs(root) == 3 * GIB // 2
    assert memory_for_jobs(tmp_path / "nowhere") is None
