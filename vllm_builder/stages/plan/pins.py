"""Answers that planning is given instead of asking for them."""

from __future__ import annotations

from pathlib import Path

from packaging.specifiers import SpecifierSet

from vllm_builder.errors import ContradictionError, TorchMissing
from vllm_builder.indexes import Indexes
from vllm_builder.model import Model
from vllm_builder.stages.environment.interpreter import torch_in
from vllm_builder.stages.environment.model import EnvironmentSpec, Interpreter, Torch
from vllm_builder.stages.source.model import SourcePin
from vllm_builder.stages.toolkit.model import ToolkitSpec


class Pins(Model):
    """What was found out when the plan was first made; what is the machine's own is still asked of the machine."""

    origin: str
    """Who says so, for a person."""
    source: SourcePin
    patches: Path
    """The folder of all patch sets."""
    python_tag: str
    """``cp311``: the wheels of the lock are for that Python."""
    lock: tuple[str, ...]
    """Of the build environment."""
    torch: Torch | None
    """None: the one of the machine's own environment."""
    toolkit: ToolkitSpec | None
    """None: one of the machine's own."""
    indexes: Indexes
    """Where the packages of the locks are."""

    def requires_python(self, release: str) -> str:
        """The release's Requires-Python, narrowed to the Python that the wheels are for."""
        digits = self.python_tag.removeprefix("cp").rstrip("t")
        return str(SpecifierSet(f"{release},=={digits[0]}.{digits[1:]}.*"))

    def environment(self, interpreter: Interpreter) -> tuple[EnvironmentSpec, Torch]:
        """The locked environment on this machine, and the torch in it.

        Raises:
            TorchMissing: torch is to be the machine's own, and there is none.
            ContradictionError: the interpreter cannot use the locked wheels.
        """
        if interpreter.tag != self.python_tag:
            raise ContradictionError(
                f"The Python {interpreter.path} is {interpreter.tag}, not {self.python_tag}.",
                why=f"The packages of {self.origin} are for {self.python_tag}.",
                next="Choose another interpreter with --python.",
            )
        spec = EnvironmentSpec(python=interpreter, lock=self.lock, indexes=self.indexes)
        if self.torch is not None:
            return spec, self.torch
        present = torch_in(interpreter)
        if present is None:
            raise TorchMissing(
                f"There is no torch in the environment of {interpreter.path}.",
                why=f"{self.origin} was made with --torch existing: torch comes from the machine, not from it.",
                next="Name a Python that has torch with --python, or have a bundle made with --torch VERSION.",
            )
        return spec.model_copy(update={"overlay": interpreter.site_packages}), present
