"""One cache for several machines: wheels, native layers and ccache's entries in a folder, on a web server, in Redis or in
an object store.

A build looks there for what it does not have, checks it, and puts it into its own store; what it makes is written back
after the wheel was handed over. Whatever is wrong with the cache costs a warning and never the build.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from vllm_builder.errors import SettingsError
from vllm_builder.events import Emit, Event, Note, ignore
from vllm_builder.shared.address import Address, has_credentials, parse

if TYPE_CHECKING:
    from vllm_builder.settings.model import Settings
    from vllm_builder.shared.artifacts import Kind
    from vllm_builder.shared.helper import Helper
    from vllm_builder.shared.remote import Remote
    from vllm_builder.stages.store import Entry, Store

SECRET: Final = "VLLM_BUILDER_SHARED_CACHE_KEY"
"""Variable with the secret that seals entries; without it anybody who can write to the cache can make entries."""
_SHORT: Final = 5.0


class Shared:
    """A shared cache in one build."""

    def __init__(self, remote: Remote, emit: Emit = ignore) -> None:
        self.remote = remote
        self._emit = emit
        self._made: list[tuple[Kind, Entry]] = []
        self._helpers: list[Helper] = []

    def fetch(self, kind: Kind, digest: str, store: Store) -> Entry | None:
        """What another machine has made, checked, and in the store now; see :func:`.artifacts.fetch`."""
        from vllm_builder.shared.artifacts import fetch

        return fetch(self.remote, kind, digest, store, emit=self._emit)

    def made(self, kind: Kind, entry: Entry) -> None:
        """Write an entry back once the build has ended well."""
        self._made.append((kind, entry))

    @contextmanager
    def compiling(self) -> Iterator[str]:
        """Serve ccache: yields what its ``remote_storage`` has to be, or an empty text where that is not possible."""
        from vllm_builder.shared.helper import Helper

        try:
            helper = Helper(self.remote)
        except OSError as error:
            self.remote.note(f"The compiler cache is not shared: {error.strerror or error}.")
            yield ""
            return
        self._helpers.append(helper)
        with helper:
            yield helper.setting

    def telling(self, emit: Emit) -> Emit:
        """An ``emit`` that also passes on what happens to the cache meanwhile."""

        def both(event: Event) -> None:
            self.remote.tell()
            emit(event)

        return both

    def finish(self, *, well: bool) -> None:
        """Write back what was made. Of a build that failed only what waits to be written, for a moment."""
        try:
            for helper in self._helpers:
                helper.drain() if well else helper.drain(_SHORT)
            if well:
                self._write_back()
        except KeyboardInterrupt:
            if not well:
                raise
            self.remote.note(f"Interrupted: not everything was written back to {self.remote.shown}.")
        finally:
            self.remote.close()

    def _write_back(self) -> None:
        from vllm_builder.shared.artifacts import write_back

        for kind, entry in self._made:
            if self.remote.writes_off or not write_back(self.remote, kind, entry, emit=self._emit):
                break


@contextmanager
def opened(settings: Settings, environ: Mapping[str, str], emit: Emit = ignore) -> Iterator[Shared | None]:
    """The shared cache that the settings name, or None; at the end of the block it is written back to.

    Raises:
        SettingsError: what speaks to such a place is not installed.
    """
    if settings.shared_cache is None:
        yield None
        return
    address = parse(settings.shared_cache)
    if settings.offline and address.network:
        emit(Note(stage="store", message=f"The shared cache {address.shown} is not used (--offline)."))
        yield None
        return
    shared = Shared(remote_of(address, environ, emit), emit)
    try:
        yield shared
    except BaseException:
        shared.finish(well=False)
        raise
    shared.finish(well=True)


def remote_of(address: Address, environ: Mapping[str, str], emit: Emit = ignore) -> Remote:
    """The cache at an address, with the secret of ``environ``.

    Raises:
        SettingsError: what speaks to such a place is not installed.
    """
    from vllm_builder.shared.places import check_installed
    from vllm_builder.shared.remote import Remote

    check_installed(address)
    return Remote(address, secret=environ.get(SECRET, "").encode(), emit=emit)


def check_given(given: Mapping[str, object]) -> None:
    """Refuse a password on the command line, where every list of processes shows it.

    Raises:
        SettingsError
    """
    address = given.get("shared_cache")
    if isinstance(address, str) and has_credentials(address):
        raise SettingsError(
            "The address of --shared-cache holds a user name or a password.",
            why="Everybody on this machine can read it in the list of processes, and it stays in the shell's history.",
            next="Put the address into the variable VLLM_BUILDER_SHARED_CACHE or into vllm-builder.toml; for http a "
            "password in netrc is used, too.",
        )
