"""Native layers in the store: beside the wheels, under ``native/<digest>``, with the same care."""

from __future__ import annotations

import json
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from vllm_builder import __version__
from vllm_builder.cache import Cache
from vllm_builder.errors import StoreError
from vllm_builder.events import Emit, Note, ignore
from vllm_builder.fs import make_dir, os_errors, remove_tree
from vllm_builder.stages.native.inputs import NativeInputs
from vllm_builder.stages.native.model import FILES, MANIFEST, Layer, Manifest
from vllm_builder.stages.store import CompileFacts, Entry, Record, Store, WheelFile, now

if TYPE_CHECKING:
    from vllm_builder.stages.plan.model import Plan

_LEVEL = 1
"""Of compression: libraries shrink to a third, and the next levels would cost more than they save."""
_TIME = (1980, 1, 1, 0, 0, 0)
_EXECUTABLE = 0o111


class Layers:
    """The native layers of a cache."""

    def __init__(self, cache: Cache) -> None:
        self.store = Store(cache.native, noun="native layer")

    def take(self, digest: str, into: Path, *, emit: Emit = ignore) -> tuple[Layer, Entry] | None:
        """Unpack the newest intact layer of a digest into a new folder; None where there is none that can be used.

        Raises:
            NoSpace, NotWritable
        """
        try:
            entry = self.store.get(digest, emit=emit)
        except StoreError as error:
            emit(Note(stage="store", level="warning", message=f"{error.what} {error.why}"))
            return None
        if entry is None:
            return None
        remove_tree(into)
        make_dir(into)
        try:
            with os_errors(f"unpacking the native layer to {into}"), zipfile.ZipFile(entry.wheel) as archive:
                manifest = Manifest.model_validate(json.loads(archive.read(MANIFEST)))
                _unpack(archive, into)
        except (zipfile.BadZipFile, KeyError, ValueError, ValidationError) as error:
            said = f"The native layer {digest[:12]} cannot be read ({error}), so not used."
            emit(Note(stage="store", level="warning", message=said))
            return None
        return Layer(into, manifest), entry

    def keep(
        self,
        inputs: NativeInputs,
        plan: Plan,
        manifest: Manifest,
        files: Path,
        *,
        tools: Mapping[str, str],
        facts: CompileFacts,
        force: bool = False,
        emit: Emit = ignore,
    ) -> Entry:
        """Add what was compiled; call it while holding the lock of the digest.

        Args:
            files: one folder for each install.
            force: put it before a layer that is there already.

        Raises:
            StoreError: it holds a link.
            NoSpace, NotWritable
        """
        make_dir(self.store.root)
        with (
            os_errors(f"adding a native layer to {self.store.root}"),
            tempfile.TemporaryDirectory(prefix=".layer-", dir=files.parent) as temporary,
        ):
            path = Path(temporary) / f"vllm-native-{plan.compile.version}-{inputs.digest[:12]}.zip"
            _pack(path, manifest, files)
            record = Record(
                digest=inputs.digest,
                release=plan.source.release,
                version=plan.compile.version,
                device=plan.device,
                archs=plan.compile.archs,
                torch=plan.torch.version if plan.torch else "",
                native={"inputs": inputs.as_dict(), "plan": plan.digest, "host": _host()},
                tools=dict(tools),
                compile=facts,
                wheel=WheelFile.of(path),
                created=now(),
                builder=__version__,
            )
            return self.store.add(inputs.digest, path, record, force=force, emit=emit)

    def entries(self) -> list[Entry]:
        """The newest readable generation of each layer."""
        newest: dict[str, Entry] = {}
        for entry in self.store.entries():
            newest.setdefault(entry.digest, entry)
        return list(newest.values())


def origin_of(entry: Entry) -> dict[str, Any]:
    """Where a layer was compiled, for a wheel's record."""
    record = entry.record
    return {
        "plan": str(record.native.get("plan", "")),
        "version": record.version,
        "created": record.created,
        "builder": record.builder,
        "host": str(record.native.get("host", "")),
        "seconds": record.compile.seconds,
        "units": record.compile.units + record.compile.resumed_from,
    }


def _pack(path: Path, manifest: Manifest, files: Path) -> None:
    with zipfile.ZipFile(path, "x", zipfile.ZIP_DEFLATED, compresslevel=_LEVEL) as archive:
        text = json.dumps(manifest.model_dump(mode="json"), indent=1, sort_keys=True)
        archive.writestr(zipfile.ZipInfo(MANIFEST, _TIME), text, zipfile.ZIP_DEFLATED)
        for source in sorted(files.rglob("*")):
            if source.is_symlink():
                raise StoreError(
                    f"What was compiled holds a link, {source.relative_to(files)}: it makes no native layer."
                )
            if source.is_dir():
                continue
            name = PurePosixPath(FILES, *source.relative_to(files).parts)
            info = zipfile.ZipInfo(str(name), _TIME)
            info.compress_type = zipfile.ZIP_DEFLATED
            info.external_attr = (0o100000 | (source.stat().st_mode & 0o777)) << 16
            info.file_size = source.stat().st_size
            with source.open("rb") as reader, archive.open(info, "w") as writer:
                while chunk := reader.read(1 << 20):
                    writer.write(chunk)


def _unpack(archive: zipfile.ZipFile, into: Path) -> None:
    for info in archive.infolist():
        target = Path(archive.extract(info, into))
        if (info.external_attr >> 16) & _EXECUTABLE:
            target.chmod(target.stat().st_mode | _EXECUTABLE)


def _host() -> str:
    import socket

    return socket.gethostname()
