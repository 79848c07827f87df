"""Commits of a mirror as one file, and a repository made of such a file again.

The pack alone travels: a repository's configuration and hooks would be commands from a stranger.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from vllm_builder.errors import BundleError, SourceError
from vllm_builder.fs import make_dir, os_errors, write_atomic
from vllm_builder.stages.source.gitrun import GitFailed, run_git


def write_pack(repository: Path, commits: Sequence[str], dest: Path) -> None:
    """Write all objects of some commits, as far as the repository has them, to the file ``dest``.

    Raises:
        SourceError: git cannot read the repository.
    """
    folder = make_dir(dest.parent / f".{dest.name}.making")
    where = ["--git-dir", str(repository)]
    # A mirror of an external source lacks pictures; they are left out, not fetched.
    wanted = ["rev-list", "--objects", "--no-object-names", "--missing=print", "--no-walk", *commits]
    try:
        listed = run_git([*where, *wanted])
        objects = sorted({line for line in listed.split() if not line.startswith("?")})
        run_git(
            [*where, "pack-objects", "--quiet", "--threads=1", str(folder / "pack")],
            stdin="".join(f"{one}\n" for one in objects).encode(),
        )
    except GitFailed as error:
        raise SourceError(
            f"git cannot pack {', '.join(one[:12] for one in commits)}.",
            why=f"{repository}: {error}.",
            next="Remove that mirror from the cache and run the command again.",
        ) from error
    with os_errors(f"writing {dest}"):
        (pack,) = folder.glob("*.pack")
        pack.replace(dest)
        shutil.rmtree(folder)


def make_repository(pack: Path, commits: Sequence[str], dest: Path) -> None:
    """Make a bare repository of a pack; git checks every object of it.

    Raises:
        BundleError: the pack is damaged, or lacks one of the commits.
    """
    with os_errors(f"making the repository {dest}"):
        try:
            run_git(["init", "--quiet", "--bare", "--template=", str(dest)])
            inside = make_dir(dest / "objects" / "pack") / "pack-bundle.pack"
            try:
                os.link(pack, inside)
            except OSError:
                shutil.copyfile(pack, inside)
            where = ["--git-dir", str(dest)]
            run_git([*where, "index-pack", str(inside)])
            # Their parents are not here, and are not to be looked for.
            write_atomic(dest / "shallow", "".join(f"{commit}\n" for commit in sorted(commits)))
            for commit in commits:
                run_git([*where, "update-ref", f"refs/commits/{commit}", commit])
        except GitFailed as error:
            raise BundleError(
                f"{pack.name} of the bundle cannot be used.",
                why=f"git: {error}.",
                next="Have the bundle made again; git has to be installed on this machine.",
            ) from error
