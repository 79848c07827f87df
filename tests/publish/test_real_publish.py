"""A real wheel, straight from the build into an index, and what its provenance says."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from publish_helpers import key_pair

from vllm_builder.fs import sha256_file

pytestmark = pytest.mark.realbuild


def test_a_real_build_is_published_signed_and_checked(
    real_cpu: dict[str, Any], real_cache: Path, tmp_path: Path
) -> None:
    private, public = key_pair(tmp_path, passphrase="open sesame")
    index = tmp_path / "index"
    program = [sys.executable, "-m", "vllm_builder"]
    folders = ["--workspace", real_cpu["workspace"], "--cache-dir", real_cache]
    environ = {k: v for k, v in os.environ.items() if not k.startswith(("VLLM_", "CCACHE_", "MAX_JOBS"))}

    def run(*arguments: object) -> dict[str, Any]:
        done = subprocess.run(
            [*program, *map(str, arguments), "--json"],
            capture_output=True,
            text=True,
            env=environ | {"VLLM_BUILDER_SIGN_PASSPHRASE": "open sesame"},
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert "sesame" not in done.stdout + done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    publish = ["--publish", index, "--channel", "nightly", "--sign-key", private]
    result = run("build", *real_cpu["arguments"], *folders, *publish)
    assert result["from_store"]
    (one,) = result["published"]["wheels"]
    assert (one["outcome"], one["variant"], one["provenance"]) == ("published", "cpu", "signed")
    assert one["checked"]["result"] in {"good", "warnings"}
    run("index", "check", "--to", index, "--provenance", "--key", public)

    (beside,) = index.rglob("*.intoto.jsonl")
    said = json.loads(base64.b64decode(json.loads(beside.read_text())["payload"]))
    assert said["subject"][0]["digest"]["sha256"] == sha256_file(Path(result["wheel"]))
    definition = said["predicate"]["buildDefinition"]
    assert definition["externalParameters"]["release"] == "0.9.2"
    names = {part["name"] for part in definition["resolvedDependencies"]}
    assert {"source", "torch", "compiler:CXX", "patches:torch-pins"} <= names
    assert said["predicate"]["runDetails"]["metadata"]["invocationId"] == result["digest"]
    text = json.dumps(said)
    for place in (Path.home(), tmp_path, real_cpu["workspace"], sys.prefix):
        assert str(place) not in text
