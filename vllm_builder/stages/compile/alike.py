"""Command lines that are alike on all machines, so that what one has compiled another finds in a shared cache.

ccache makes paths below the tree relative (CCACHE_BASEDIR). The build environment and an assembled toolkit lie in the cache
folder, which is another with each user, and compilers are given their paths. So in the tree there is a link to
each, and everything goes through the links.
"""

from __future__ import annotations

from pathlib import Path

from vllm_builder.fs import os_errors
from vllm_builder.stages.compile.model import CompileSpec
from vllm_builder.stages.environment.model import Environment


def arrange(spec: CompileSpec, environment: Environment, state: Path) -> tuple[CompileSpec, Environment]:
    """The same toolchain, through links in ``state``, a folder of the tree's own.

    What lies outside of them (a toolkit of the machine, packages of the person's own) stays as it is: where machines
    are alike, it is at the same place.

    Raises:
        NotWritable, NoSpace
    """
    root = environment.bin.parent
    link = _link(state / "env", root)
    environment = environment.model_copy(
        update={
            "python": _through(link, root, environment.python),
            "bin": _through(link, root, environment.bin),
            "site_packages": tuple(_through(link, root, folder) for folder in environment.site_packages),
        }
    )
    if spec.cuda_home is None:
        return spec, environment
    home = Path(spec.cuda_home)
    cuda = _link(state / "cuda", home)
    compilers = tuple(
        one.model_copy(update={"path": str(_through(cuda, home, Path(one.path)))}) for one in spec.compilers
    )
    return spec.model_copy(update={"cuda_home": str(cuda), "compilers": compilers}), environment


def _through(link: Path, root: Path, path: Path) -> Path:
    return link / path.relative_to(root) if path.is_relative_to(root) else path


def _link(link: Path, to: Path) -> Path:
    with os_errors(f"writing {link}"):
        if not (link.is_symlink() and link.readlink() == to):
            link.unlink(missing_ok=True)
            link.symlink_to(to)
    return link
