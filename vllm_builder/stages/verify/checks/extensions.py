"""Is every extension there, and does each have code for every GPU that was asked for?"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from vllm_builder.architectures import can_run, compiles_to, number
from vllm_builder.binary.model import Unit
from vllm_builder.stages.plan.compatibility import within
from vllm_builder.stages.verify.expectations import ExpectedExtension
from vllm_builder.stages.verify.inspecting import foreign_libraries
from vllm_builder.stages.verify.model import Finding
from vllm_builder.stages.verify.spelling import qualified
from vllm_builder.stages.verify.subject import Part, Subject
from vllm_builder.stages.verify.table import table

_SHOWN = 6


def missing_extensions(subject: Subject) -> Iterator[Finding]:
    expected = subject.expected
    for one in expected.extensions or ():
        found = one.finds(subject.wheel.members)
        if one.required and found is None:
            yield Finding(
                check="missing-extension",
                severity="warning" if one.optional else "error",
                what=f"{one.name} is not in the wheel.",
                where=one.path,
                why=f"vLLM {expected.release} builds it for {expected.device}{_for(expected.archs)}; without it, what "
                "needs it fails when it is called, or falls back to something slower.",
                cure="Look in the log of setup.py for why it was not built; then build again.",
            )
        elif not one.required and found is None and "left out" in one.reason:
            yield Finding(
                check="missing-extension",
                severity="info",
                what=f"{one.name} is not in the wheel: {one.reason}.",
                where=one.path,
            )


def unreadable_members(subject: Subject) -> Iterator[Finding]:
    for member, why in subject.unreadable.items():
        yield Finding(
            check="damaged",
            severity="error",
            what=f"{member} cannot be read.",
            where=member,
            why=why,
            cure="Fetch or build the wheel again.",
        )


def missing_archs(subject: Subject) -> Iterator[Finding]:
    """Whole extensions without any code that an expected architecture asks for; and wheels without any."""
    if _none_at_all(subject):
        device = subject.expected.device
        yield Finding(
            check="missing-arch",
            severity="error",
            what=f"The wheel holds no GPU code at all, and has to serve {', '.join(subject.expected.archs)}.",
            why=f"It is for {device}." if device in {"cpu", "empty"} else "Nothing of it runs on a GPU.",
            cure="Name the wheel that was built for these GPUs, or build one with --arch.",
        )
    for part in subject.parts:
        expected = subject.expected_for(part)
        if expected is None or expected.code == "none":
            continue
        if not part.units:
            if subject.expected.archs and expected.required:
                yield Finding(
                    check="missing-arch",
                    severity="error",
                    what=f"{part.short} holds no GPU code at all.",
                    where=part.name,
                    why="It was compiled without any kernel: nothing of it runs on a GPU.",
                    cure="Build it again; look which architectures CMake announces for it.",
                )
            continue
        if expected.code == "requested":
            yield from _missing_requested(subject, part)
        elif expected.required:
            yield from _missing_fixed(part, expected)


def _none_at_all(subject: Subject) -> bool:
    """Of a whole wheel whose libraries could all be read."""
    expected = subject.expected
    known = not (expected.partial or subject.unreadable or foreign_libraries(subject.wheel))
    return bool(expected.archs) and known and not any(subject.gpu_parts())


def _missing_requested(subject: Subject, part: Part) -> Iterator[Finding]:
    for gpu, answers in part.answers.items():
        if "native" in answers:
            continue
        have = ", ".join(part.module.sass) or "none"
        best = (
            "PTX of " + ", ".join(part.module.ptx) + " is compiled when it is first used"
            if "jit" in answers
            else ""
        )
        yield Finding(
            check="missing-arch",
            severity="error",
            what=f"{part.short} has no native code for {gpu}: it holds {have}.",
            where=part.name,
            why=best or f"Every kernel of it fails on {gpu} with 'no kernel image is available'.",
            cure=f"Build with --arch that names {gpu}, or use another wheel there.",
        )


def _missing_fixed(part: Part, expected: ExpectedExtension) -> Iterator[Finding]:
    have = set(part.module.sass)

    def there(code: str) -> bool:
        base, _, ptx = code.partition("+")
        return base in have and (not ptx or base in part.module.ptx)

    absent = [code for code in expected.archs if not there(code)]
    if expected.one_of and len(absent) < len(expected.archs):
        return
    for code in absent:
        yield Finding(
            check="missing-arch",
            severity="error",
            what=f"{part.short} has no code for {code}: it holds {', '.join(part.module.sass) or 'none'}"
            f"{', PTX ' + ', '.join(part.module.ptx) if part.module.ptx else ''}.",
            where=part.name,
            why=f"The release compiles it for {', '.join(expected.all_archs)}; without that code it does not run.",
            cure="Build it again; look which architectures CMake announces for it.",
        )


def answers(subject: Subject) -> Iterator[Finding]:
    """Each translation unit's answer for each wanted GPU, grouped by extension and by what is wrong."""
    for part in subject.gpu_parts():
        expected = subject.expected_for(part)
        yield from _dead(subject, part, expected)
        yield from _jit(subject, part, expected)


def _dead(subject: Subject, part: Part, expected: ExpectedExtension | None) -> Iterator[Finding]:
    wrong: dict[tuple[int, ...], list[str]] = {}
    meant: dict[str, list[int]] = {}
    for gpu in part.answers:
        numbers = _answering(part, gpu, "dead")
        bad = [n for n in numbers if not _by_design(subject, part.units[n], expected, gpu)]
        if bad:
            wrong.setdefault(tuple(bad), []).append(gpu)
        if others := [n for n in numbers if n not in bad]:
            meant[gpu] = others
    for bad_units, gpus in wrong.items():
        named = ", ".join(gpus)
        known = bool(subject.expected.lists)
        yield Finding(
            check="dead-kernels",
            severity="error" if known else "warning",
            what=f"{len(bad_units)} of {len(part.units)} units of {part.short} are dead on {named}: they hold "
            f"{_codes(part, bad_units)} only{_names(part, bad_units)}",
            where=part.name,
            why=f"There is neither binary code of that major version nor PTX: on {named} these kernels "
            "fail with 'no kernel "
            "image is available'."
            + ("" if known else " Whether the release means that cannot be told without its CMake files."),
            cure=f"Build with --arch that names {named}.",
        )
    if meant:
        total = len(part.units)
        counts = [
            f"{gpu} ({'all' if len(some) == total else len(some)} of {total})" for gpu, some in meant.items()
        ]
        yield Finding(
            check="dead-kernels",
            severity="info",
            what=f"Units of {part.short} that are meant for other GPUs than {', '.join(counts)}.",
            where=part.name,
            why="The release compiles these kernels for other GPUs only, and calls others here.",
        )


def _by_design(subject: Subject, unit: Unit, expected: ExpectedExtension | None, gpu: str) -> bool:
    """Whether a unit that cannot run on a GPU was never meant to.

    It holds nothing but code with a suffix, or begins with a later GPU; or its extension, or a list of
    architectures in the release's CMake files, is for other GPUs.
    """
    if not _reaches(unit, gpu):
        return True
    if expected is not None and expected.code == "fixed":
        return not any(can_run(code, gpu) for code in expected.all_archs)
    held = {code.arch for code in unit.codes}
    for text in subject.expected.lists:
        codes = text.split(";")
        if held <= {code.partition("+")[0] for code in codes} and not any(
            can_run(code, gpu) for code in codes
        ):
            return True
    return False


def _jit(subject: Subject, part: Part, expected: ExpectedExtension | None) -> Iterator[Finding]:
    groups: dict[tuple[str, str, tuple[int, ...]], list[str]] = {}
    for gpu in part.answers:
        some: dict[tuple[str, str], list[int]] = {}
        for n in _answering(part, gpu, "jit"):
            key = _peculiar(subject.expected.release, part, n), ", ".join(_ptx(part, [n], gpu))
            some.setdefault(key, []).append(n)
        for (why, ptx), numbers in some.items():
            groups.setdefault((why, ptx, tuple(numbers)), []).append(gpu)
    design = expected is not None and expected.code == "fixed" and any("+PTX" in c for c in expected.archs)
    for (why, ptx, units), gpus in groups.items():
        if design and expected is not None and not why:
            why = f"The release compiles it for {', '.join(expected.archs)} only."
        yield Finding(
            check="jit-kernels",
            severity="info" if design else "warning",
            what=f"{len(units)} of {len(part.units)} units of {part.short} answer {', '.join(gpus)} by JIT from PTX "
            f"{ptx}{_names(part, units)}",
            where=part.name,
            why=f"{why} There the driver compiles them when they are first used (seconds to minutes, kept in its cache), "
            "and they do not use what is new in that GPU.".strip(),
        )


def _answering(part: Part, gpu: str, answer: str) -> list[int]:
    """Units with that answer; a unit without any kernel has nothing to answer for."""
    return [n for n, a in enumerate(part.answers[gpu]) if a == answer and part.kernels.get(n) != ()]


def _peculiar(release: str, part: Part, number: int) -> str:
    names = part.kernels.get(number) or ()
    for one in table().peculiarities:
        fits = one.module == part.short and (not release or within(one.releases, release))
        if fits and any(re.search(one.kernel, name) for name in names):
            return one.why
    return ""


def _reaches(unit: Unit, gpu: str) -> bool:
    plain = [code.arch for code in unit.codes if code.arch[-1:] not in "af"]
    return any(number(arch) <= number(gpu) for arch in plain)


def _codes(part: Part, numbers: Iterable[int]) -> str:
    found = {code.arch for n in numbers for code in part.units[n].codes}
    return ", ".join(sorted(found, key=lambda arch: (number(arch), arch)))


def _ptx(part: Part, numbers: Iterable[int], gpu: str) -> list[str]:
    """The PTX that the driver would take."""
    found = {
        code.arch
        for n in numbers
        for code in part.units[n].codes
        if code.kind == "ptx" and compiles_to(code.arch, gpu)
    }
    return sorted(found, key=lambda arch: (number(arch), arch))


def _names(part: Part, numbers: Iterable[int]) -> str:
    """``: marlin::Marlin, cutlass::Kernel and 3 more``, from the units whose kernels are known."""
    mangled = dict.fromkeys(name for n in numbers for name in part.kernels.get(n) or ())
    found = list(dict.fromkeys(qualified(name) for name in mangled))
    # Kernels of CUDA's own libraries say nothing of whose unit it is.
    found.sort(key=lambda name: name.startswith(("cub::", "thrust::", "at_cuda_detail::")))
    if not found:
        return "."
    more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    return f": {', '.join(found[:_SHOWN])}{more}."


def _for(archs: Sequence[str]) -> str:
    return f" ({', '.join(archs)})" if archs else ""
