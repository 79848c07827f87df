"""check with provenance, and while others publish."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519
from index_helpers import make_wheel

from vllm_builder.cli import main, screen
from vllm_builder.errors import CheckFailed, ProvenanceError, SettingsError
from vllm_builder.index.candidates import Candidate, read_candidate
from vllm_builder.index.checking import check
from vllm_builder.index.manifest import load
from vllm_builder.index.provenance.signing import load_public_keys, load_signing_key
from vllm_builder.index.publishing import publish
from vllm_builder.index.storage.folder import Folder
from vllm_builder.stages.publish.proving import prove
from vllm_builder.wheelfile.record import BuildRecord


def record(version: str) -> BuildRecord:
    return BuildRecord(
        builder="vllm-builder 0.1.0",
        digest="d" * 64,
        release="1.0",
        version=version,
        device="cpu",
        inputs={"source": {"identity": "git:" + "a" * 40, "release": "1.0"}, "device": "cpu"},
    )


def keys(folder: Path, name: str) -> tuple[Path, Path]:
    made = ed25519.Ed25519PrivateKey.generate()
    private, public = folder / f"{name}.pem", folder / f"{name}.pub"
    private.write_bytes(
        made.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    public.write_bytes(
        made.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    )
    return private, public


@pytest.fixture
def signed(tmp_path: Path) -> Candidate:
    """A wheel of ours with its provenance, signed by ``team``."""
    private, _ = keys(tmp_path, "team")
    path = make_wheel(tmp_path / "dist", "vllm", "1.0+cpu", record=record("1.0+cpu"))
    one = read_candidate(path)
    return replace(one, provenance=prove(one, load_signing_key(private, {})))


def found(storage: Folder, *public: Path) -> set[tuple[str, str]]:
    report = check(storage, provenance=True, keys=load_public_keys(public))
    return {(one.severity, one.what) for one in report.findings}


def errors(storage: Folder, *, quick: bool) -> set[str]:
    """The page for people shows what lies beside a wheel, and may be of another mind: that is a remark."""
    return {one.check for one in check(storage, quick=quick).findings if one.severity == "error"}


def test_provenance_that_the_team_signed(tmp_path: Path, signed: Candidate) -> None:
    storage = Folder(tmp_path / "index")
    publish(storage, [signed])
    assert found(storage, tmp_path / "team.pub") == set()
    _, other = keys(tmp_path, "other")
    assert {severity for severity, _ in found(storage, other)} == {"error"}
    assert found(storage, other, tmp_path / "team.pub") == set()
    # Without a key it is said that nothing was proven.
    assert {severity for severity, _ in found(storage)} == {"info"}


def test_a_wheel_without_provenance_where_it_is_asked_for(tmp_path: Path, signed: Candidate) -> None:
    storage = Folder(tmp_path / "index")
    publish(storage, [signed, read_candidate(make_wheel(tmp_path / "dist", "vllm", "1.0+cu130"))])
    assert [(s, "cu130" in what) for s, what in found(storage, tmp_path / "team.pub")] == [("error", True)]


@pytest.mark.parametrize("quick", [True, False])
def test_provenance_that_was_taken_away_or_exchanged(tmp_path: Path, signed: Candidate, quick: bool) -> None:
    storage = Folder(tmp_path / "index")
    publish(storage, [signed])
    snapshot = load(storage)
    assert snapshot is not None
    path = storage.root / next(file.provenance_key for _, file in snapshot.files())
    path.write_bytes(path.read_bytes().replace(b"{", b" {", 1))
    assert errors(storage, quick=quick) == {"provenance-damaged"}
    path.unlink()
    assert errors(storage, quick=quick) == {"provenance-missing"}


def test_the_command(
    tmp_path: Path,
    signed: Candidate,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    publish(Folder(tmp_path / "index"), [signed])
    keys(tmp_path, "other")
    for arguments, code in (
        (["--provenance", "--key", "team.pub"], 0),
        (["--provenance", "--key", "other.pub"], CheckFailed.exit_code),
        (["--provenance", "--key", "missing.pub"], ProvenanceError.exit_code),
        (["--key", "team.pub"], SettingsError.exit_code),
    ):
        screen.use_json(False)
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main(["index", "check", "--to", "index", "--json", *arguments])
        screen.use_json(False)
        assert end.value.code == code, arguments
        assert json.loads(capsys.readouterr().out)


def test_who_publishes_meanwhile_is_no_fault(tmp_path: Path) -> None:
    storage = Folder(tmp_path / "index")
    wheels = [
        read_candidate(make_wheel(tmp_path / "dist", "vllm", f"1.0.dev{number}+cpu")) for number in range(12)
    ]
    publish(storage, wheels[:1])
    failed: list[BaseException] = []

    def publisher() -> None:
        try:
            for one in wheels[1:]:
                publish(Folder(storage.root), [one])
        except BaseException as error:
            failed.append(error)
            raise

    thread = threading.Thread(target=publisher)
    thread.start()
    seen = []
    while thread.is_alive():
        seen += [one for one in check(storage, jobs=2).findings if one.severity != "info"]
        if seen:
            break
    thread.join()
    assert failed == []
    assert seen == []
    assert check(storage).files == len(wheels)
