"""The SBOM names what the wheel was made of, keeps to its schema, and is the same each time."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from finish_helpers import materials, record

from vllm_builder.stages.finish.sbom import Materials, sbom
from vllm_builder.stages.vendor.model import Lock

LOCK = Lock.model_validate(
    {
        "release": "1.2.3",
        "externals": [
            {
                "name": "flashmla",
                "url": "https://someone:secret@github.com/vllm-project/FlashMLA.git",
                "revision": "575f77",
                "written": "575f77",
                "folder": "vllm/third_party/flashmla.src",
                "commit": "1" * 40,
                "tree": "2" * 40,
                "submodules": [
                    {
                        "path": "csrc/cutlass",
                        "url": "git@github.com:NVIDIA/cutlass.git",
                        "commit": "3" * 40,
                        "tree": "4" * 40,
                        "without": ["docs"],
                    }
                ],
            },
            {
                "name": "onednn",
                "url": "https://example.org/oneDNN.git",
                "revision": "v3.8",
                "written": "v3.8",
                "folder": "vllm/third_party/onednn.src",
                "commit": "5" * 40,
                "tree": "6" * 40,
            },
            {
                "name": "own",
                "url": "/home/somebody/own",
                "revision": "main",
                "written": "main",
                "folder": "vllm/third_party/own.src",
                "commit": "7" * 40,
                "tree": "8" * 40,
            },
        ],
    }
)


def document(made_of: Materials, **more: Any) -> Any:
    text = sbom(record(tools={"cmake": "4.0.0"}, archs=("10.0",)), made_of, **more)
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    return json.loads(text)


def facts(component: Any) -> dict[str, str]:
    return {one["name"].removeprefix("vllm-builder:"): one["value"] for one in component["properties"]}


@pytest.mark.parametrize("identity", ["git:" + "c" * 40, "sha256:" + "d" * 64, "tree:" + "e" * 64])
def test_the_package_names_its_source(identity: str) -> None:
    package = document(materials(identity))["metadata"]["component"]
    assert package["purl"] == "pkg:pypi/vllm@1.2.3%2Bcpu"
    (upstream,) = package["pedigree"]["ancestors"]
    assert upstream["purl"] == "pkg:pypi/vllm@1.2.3"
    assert facts(upstream)["source"] == identity
    value = identity.partition(":")[2]
    assert [h["content"] for h in upstream.get("hashes", [])] == ([value] if "sha256" in identity else [])
    commits = [c["uid"] for c in package["pedigree"].get("commits", [])]
    assert commits == ([value] if "git" in identity else [])
    assert facts(package)["tool:cmake"] == "4.0.0"
    assert len(facts(package)["patch-set:torch-pins"]) == 64


def test_every_external_source_and_its_submodules_are_components() -> None:
    found = document(materials(externals=LOCK))
    components = {facts(one)["place"]: one for one in found["components"]}
    assert {place: one["purl"] for place, one in components.items()} == {
        "flashmla": f"pkg:github/vllm-project/flashmla@{'1' * 40}",
        "flashmla/csrc/cutlass": f"pkg:github/nvidia/cutlass@{'3' * 40}",
        "onednn": f"pkg:generic/onednn@{'5' * 40}?vcs_url=git%2Bhttps://example.org/oneDNN.git%40{'5' * 40}",
        "own": f"pkg:generic/own@{'7' * 40}",
    }
    assert facts(components["flashmla/csrc/cutlass"])["git-tree"] == "4" * 40
    assert facts(components["flashmla/csrc/cutlass"])["without"] == "docs"
    below = {one["ref"]: one.get("dependsOn", []) for one in found["dependencies"]}
    root = found["metadata"]["component"]["bom-ref"]
    assert len(below[root]) == 3
    assert below[components["flashmla"]["bom-ref"]] == [components["flashmla/csrc/cutlass"]["bom-ref"]]


def test_neither_credentials_nor_folders_of_the_machine_are_told() -> None:
    text = json.dumps(document(materials(externals=LOCK)))
    for secret in ("someone", "secret", "/home", "/somewhere"):
        assert secret not in text


def test_it_has_no_time_but_a_given_one() -> None:
    assert "timestamp" not in document(materials())["metadata"]
    assert document(materials(), epoch=1700000000)["metadata"]["timestamp"] == "2023-11-14T22:13:20+00:00"


def test_it_is_the_same_in_every_process() -> None:
    program = (
        "from finish_helpers import materials, record; from test_sbom import LOCK;"
        "from vllm_builder.stages.finish.sbom import sbom;"
        "print(sbom(record(tools={'cmake': '4'}), materials(externals=LOCK)))"
    )
    texts = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join([str(Path(__file__).parent), *sys.path])},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(texts) == 1
