"""Which extension modules a build makes: those that can run on a requested GPU, or those that were chosen."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from vllm_builder.architectures import can_run
from vllm_builder.errors import ContradictionError, SettingsError, SourceError, did_you_mean
from vllm_builder.stages.patch.operations import LeaveOutExtension, Step
from vllm_builder.stages.plan.supported import guarded_extensions

# They are part of every CUDA build, so what CMake installs beside a module that is left out goes to one of them.
_ALWAYS = ("_C_stable_libtorch", "_C")


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Extension modules that a build leaves out on purpose."""

    reasons: dict[str, str] = field(default_factory=dict)
    """Name -> reason."""
    steps: tuple[Step, ...] = ()
    """The patch operations that do it."""
    told: tuple[tuple[str, str, str], ...] = ()
    """Lines of the plan: what, value, because of."""


def extensions_left_out(
    folder: Path, release: str, archs: tuple[str, ...], *, chosen: tuple[str, ...], keep_dead: bool
) -> LeftOut:
    """Decide which extension modules of a release are not built.

    Args:
        folder: holds the release's setup.py.
        release: its version.
        archs: GPUs, as TORCH_CUDA_ARCH_LIST spells them; empty for a device without.
        chosen: ``--extensions``; empty for all.
        keep_dead: ``--keep-dead``.

    Raises:
        SettingsError, SourceError, PatchFailed
        ContradictionError: a chosen module can run on none of the GPUs.
    """
    if not archs and not chosen:
        return LeftOut()
    names = listed(folder)
    if chosen:
        if not keep_dead:
            _refuse_dead(folder, names, release, archs, chosen)
        without = not_chosen(names, chosen)
        told = (
            ("extensions", ", ".join(chosen), "--extensions; for development, so the wheel is not stored"),
        )
        return LeftOut(without, leave_out_steps(names, without, "chosen-extensions"), told)
    dead = dead_extensions(names, release, archs)
    if keep_dead:
        return LeftOut(told=tuple(("kept", name, f"--keep-dead; it {why}") for name, why in dead.items()))
    return LeftOut(
        dead,
        leave_out_steps(names, dead, "dead-extensions"),
        tuple(("left out", name, f"it {why} (--keep-dead compiles it)") for name, why in dead.items()),
    )


def _refuse_dead(
    folder: Path, names: Collection[str], release: str, archs: tuple[str, ...], chosen: tuple[str, ...]
) -> None:
    """Chosen modules that can run on no requested GPU: whoever asks for them means another architecture."""
    dead = dead_extensions(names, release, archs) if archs else {}
    for name, codes in guarded_extensions(folder).items() if archs else ():
        if not any(can_run(code, gpu) for code in codes for gpu in archs):
            dead.setdefault(name, _only(codes, archs))
    dead = {name: why for name, why in dead.items() if name in chosen}
    if not dead:
        return
    needed = "; ".join(f"{name} {why}" for name, why in dead.items())
    raise ContradictionError(
        f"--extensions {','.join(chosen)} names what cannot run on {', '.join(archs)}: {', '.join(dead)}.",
        why=f"{needed}.",
        next="Choose an --arch that it has code for, leave it out of --extensions, or insist with --keep-dead.",
    )


def listed(folder: Path) -> tuple[str, ...]:
    """The extension modules that the release's setup.py may build, each once, in order.

    Raises:
        SourceError: there is no setup.py.
        PatchFailed: it is not valid Python.
    """
    from vllm_builder.stages.patch.python_edit import extensions

    try:
        data = (folder / "setup.py").read_bytes()
    except OSError:
        raise SourceError(
            "The source has no setup.py.",
            why="It says which extension modules there are.",
            next="Check --source and VERSION.",
        ) from None
    return tuple(dict.fromkeys(name for name, _ in extensions(data)))


def dead_extensions(names: Collection[str], release: str, archs: Iterable[str]) -> dict[str, str]:
    """Modules that can run on no requested GPU and would be built all the same, each with the reason.

    A module of which the table says nothing is taken to be alive; what CMake leaves out by itself is not named.
    """
    from vllm_builder.stages.verify.table import table

    archs = tuple(archs)
    dead = {}
    for entry in table().of(release, "cuda"):
        if entry.name not in names or not entry.empty:
            continue
        if not any(can_run(code, gpu) for code in entry.archs for gpu in archs):
            dead[entry.name] = _only(entry.archs, archs)
    return dead


def _only(codes: Iterable[str], archs: Iterable[str]) -> str:
    return f"has code for {', '.join(codes)} only, which cannot run on {', '.join(archs)}"


def not_chosen(names: Collection[str], chosen: Collection[str]) -> dict[str, str]:
    """Modules that ``--extensions`` does not name, each with the reason.

    Raises:
        SettingsError: a chosen module is not one of the release's.
    """
    for name in chosen:
        if name not in names:
            raise SettingsError(
                f"This release has no extension {name!r}{did_you_mean(name, names)}.",
                why=f"Its setup.py knows {', '.join(names)}.",
                next="Correct --extensions, or leave it out for the whole wheel.",
            )
    return {name: f"not one of --extensions {','.join(chosen)}" for name in names if name not in chosen}


def leave_out_steps(names: Collection[str], without: Mapping[str, str], set_name: str) -> tuple[Step, ...]:
    """The patch operations that leave modules out; they take part in the plan's digest like any other."""
    kept = [name for name in names if name not in without]
    keeper = next((name for name in _ALWAYS if name in kept), kept[0] if kept else "")
    return tuple(
        Step(
            set=set_name,
            number=number,
            operation=LeaveOutExtension(action="leave_out_extension", name=name, component=keeper),
        )
        for number, name in enumerate(without, 1)
    )
