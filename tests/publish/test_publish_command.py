"""The command, in a process of its own: what it lets out, and how it ends."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from publish_helpers import key_pair, record
from upload_servers import PASSWORD, Answer, BadServer, clean_environ

Wheels = Callable[..., Path]


def run(*arguments: object, folder: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    known = clean_environ(
        HOME=str(folder),
        PYTHON_KEYRING_BACKEND="keyring.backends.null.Keyring",
        VLLM_BUILDER_CACHE_DIR=str(folder / "c"),
    )
    return subprocess.run(
        [sys.executable, "-m", "vllm_builder", "index", "publish", *map(str, arguments)],
        capture_output=True,
        text=True,
        env=known | environ,
        cwd=folder,
        check=False,
        timeout=120,
    )


@pytest.mark.parametrize("json_", [True, False])
@pytest.mark.parametrize(("status", "code"), [(200, 0), (403, 92), (409, 91)])
def test_the_password_is_nowhere_to_be_seen(
    wheels: Wheels, tmp_path: Path, status: int, code: int, json_: bool
) -> None:
    bad = BadServer()
    bad.answers = [Answer(status, f"hello {PASSWORD}", keep=status == 200)]
    with bad.serving() as url:
        done = run(
            *(wheels(), "--to", url),
            *(["--json"] if json_ else []),
            folder=tmp_path,
            VLLM_BUILDER_PUBLISH_USERNAME="team",
            VLLM_BUILDER_PUBLISH_PASSWORD=PASSWORD,
        )
    assert done.returncode == code, done.stdout + done.stderr
    assert all(who is not None for _, who in bad.asked)
    assert "hunter2" not in done.stdout + done.stderr
    if json_:
        assert isinstance(json.loads(done.stdout), dict)
        assert all(isinstance(json.loads(line), dict) for line in done.stderr.splitlines())
    for file in tmp_path.rglob("*"):
        assert not file.is_file() or b"hunter2" not in file.read_bytes()


def test_an_address_with_a_password(wheels: Wheels, tmp_path: Path) -> None:
    done = run(wheels(), "--to", "https://u:hunter2@wheels.example/", folder=tmp_path)
    assert done.returncode == 10
    assert "hunter2" not in done.stdout + done.stderr


def test_signed_on_the_command_line(wheels: Wheels, tmp_path: Path) -> None:
    wheel = wheels("vllm", "1.0+cu130", record=record())
    private, public = key_pair(tmp_path, passphrase="open sesame")
    given = (wheel, "--to", tmp_path / "index", "--sign-key", private, "--no-verify", "a toy", "--json")
    closed = run(*given, folder=tmp_path)
    assert closed.returncode == 95
    assert "VLLM_BUILDER_SIGN_PASSPHRASE" in closed.stdout
    done = run(*given, folder=tmp_path, VLLM_BUILDER_SIGN_PASSPHRASE="open sesame")
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout)["wheels"][0]["provenance"] == "signed"
    assert "sesame" not in done.stdout + done.stderr
    check = [
        sys.executable,
        "-m",
        "vllm_builder",
        "index",
        "check",
        "--to",
        str(tmp_path / "index"),
        "--provenance",
    ]
    found = subprocess.run([*check, "--key", str(public)], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout + found.stderr
    _, other = key_pair(tmp_path, "p256")
    found = subprocess.run([*check, "--key", str(other)], capture_output=True, text=True, check=False)
    assert found.returncode in {94, 95}, found.stdout + found.stderr
    assert "none of the given keys" in found.stdout + found.stderr
