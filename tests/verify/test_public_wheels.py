"""Wheels of the package index: what is said of them was looked up by other means."""

from __future__ import annotations

from pathlib import Path

import pytest
from public_wheels import cache_folder
from pypi_simple import PYPI_SIMPLE_ENDPOINT, DistributionPackage, ProjectPage
from range_server import serving

from vllm_builder.cache import Cache
from vllm_builder.events import ignore
from vllm_builder.indexes import read_indexes
from vllm_builder.stages.source.download import download
from vllm_builder.stages.source.http import Http
from vllm_builder.stages.verify.comparing import compare
from vllm_builder.stages.verify.inspecting import inspect
from vllm_builder.wheelfile import open_wheel

pytestmark = pytest.mark.corpus

VLLM = "vllm-0.9.2-cp38-abi3-manylinux1_x86_64.whl"
XFORMERS = "xformers-0.0.35-py39-none-manylinux_2_28_x86_64.whl"
BITSANDBYTES = "bitsandbytes-0.50.2-py3-none-manylinux_2_24_x86_64.whl"
TORCH = "torch-2.11.0-cp312-cp312-manylinux_2_28_x86_64.whl"


def listed(filename: str, http: Http) -> DistributionPackage:
    project = filename.partition("-")[0]
    index = (read_indexes().index_url or PYPI_SIMPLE_ENDPOINT).rstrip("/")
    page = ProjectPage.from_response(http.get(f"{index}/{project}/"), project)
    return next(package for package in page.packages if package.filename == filename)


def local(filename: str) -> Path:
    """The wheel itself, downloaded once."""
    with Http(read_indexes()) as http:
        file = listed(filename, http)
        return download(
            file.url, filename, Cache(cache_folder()), ignore, http, sha256=file.digests["sha256"]
        )[0]


def test_vllm_itself_of_the_index_by_ranges() -> None:
    with Http(read_indexes()) as http, open_wheel(listed(VLLM, http).url, http=http) as wheel:
        assert wheel.remote
        assert wheel.metadata.name == "vllm"
        assert "torch==2.7.0" in wheel.metadata.requires_dist
        # Renamed after it was built, and the file WHEEL left as it was.
        assert wheel.wheel_tags == ("cp38-abi3-linux_x86_64",)
        assert wheel.members["vllm/_C.abi3.so"].size == 324601120


def test_torch_has_only_its_directory_fetched() -> None:
    with Http(read_indexes()) as http:
        found = inspect(listed(TORCH, http).url, libraries=False)
    assert found.version == "2.11.0"
    assert found.members > 10_000
    assert "libraries" in found.size_by_kind


def test_a_small_wheel_whole() -> None:
    path = local(XFORMERS)
    found = inspect(path)
    (library,) = found.modules
    assert dict(library.sass) == {"7.5": 11, "8.0": 11, "9.0a": 11}
    assert (dict(library.ptx), library.ptx_isa) == ({"8.0": 11}, "8.7")
    assert (library.cuda_runtime, library.stable_torch) == ("12", "2.10")
    assert found.outside == ()
    with open_wheel(path) as wheel:
        assert wheel.verify_record() == []
    assert compare(path, path).identical


def test_a_remote_library_costs_less_than_the_file() -> None:
    content = local(XFORMERS).read_bytes()
    with serving(content) as server:
        light = inspect(f"{server.url}/{XFORMERS}", libraries=False)
        assert server.sent < len(content) / 10
        before = server.sent
        whole = inspect(f"{server.url}/{XFORMERS}")
        assert server.sent - before < len(content)
    assert light.requires_dist == whole.requires_dist
    assert whole.modules == inspect(local(XFORMERS)).modules


def test_libraries_for_other_devices_beside_those_for_cuda() -> None:
    found = inspect(local(BITSANDBYTES))
    by_name = {module.library.name.rpartition("_")[2].partition(".")[0]: module for module in found.modules}
    assert by_name["cuda118"].cuda_runtime == "11"
    assert dict(by_name["cuda132"].ptx) == {"12.0": 6}
    assert by_name["rocm72"].sass == {}
    assert "libgomp.so.1" in found.outside
    assert not [soname for soname in found.outside if soname.startswith(("libcud", "libcublas"))]
