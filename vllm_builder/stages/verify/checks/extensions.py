"""Is every extension there, and does each have code for every GPU that was asked for?"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from vllm_builder.architectures import can_run, number
from vllm_builder.binary import demangle
from vllm_builder.binary.model import Unit
from vllm_builder.stages.plan.compatibility import within
from vllm_builder.stages.verify.expectations import ExpectedExtension
from vllm_builder.stages.verify.model import Finding
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
                severity="error",
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
    """Whole extensions without any code that an expected architecture asks for."""
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
    for code in expected.archs:
        base, _, ptx = code.partition("+")
        if base in have and (not ptx or base in part.module.ptx):
            continue
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
    """Each translation unit's answer for each wanted GPU, grouped by extension."""
    for part in subject.gpu_parts():
        expected = subject.expected_for(part)
        for gpu, given in part.answers.items():
            dead = [n for n, a in enumerate(given) if a == "dead"]
            yield from _dead(subject, part, expected, gpu, dead)
            yield from _jit(subject, part, expected, gpu, [n for n, a in enumerate(given) if a == "jit"])


def _dead(
    subject: Subject, part: Part, expected: ExpectedExtension | None, gpu: str, numbers: Sequence[int]
) -> Iterator[Finding]:
    # Units with nothing but suffixed code were written for one GPU; units that begin later than this GPU never meant it.
    older = [n for n in numbers if _reaches(part.units[n], gpu)]
    design = [n for n in numbers if n not in older]
    if older and expected is not None and expected.code == "fixed" and not _serves(expected, gpu):
        design, older = list(numbers), []
    if older:
        yield Finding(
            check="dead-kernels",
            severity="error",
            what=f"{len(older)} of {len(part.units)} units of {part.short} are dead on {gpu}: they hold "
            f"{_codes(part, older)}{_names(part, older)}",
            where=part.name,
            why=f"Binary code of another major version never runs, and there is no PTX to compile: on {gpu} these kernels "
            "fail with 'no kernel image is available'.",
            cure=f"Build with --arch that names {gpu}.",
        )
    if design:
        yield Finding(
            check="dead-kernels",
            severity="info",
            what=f"{len(design)} of {len(part.units)} units of {part.short} are not meant for {gpu}: they hold "
            f"{_codes(part, design)}.",
            where=part.name,
            why="Kernels of other GPUs; vLLM chooses others here.",
        )


def _jit(
    subject: Subject, part: Part, expected: ExpectedExtension | None, gpu: str, numbers: Sequence[int]
) -> Iterator[Finding]:
    if not numbers:
        return
    known: dict[str, list[int]] = {}
    rest = []
    for n in numbers:
        why = _peculiar(subject.expected.release, part, n)
        known.setdefault(why, []).append(n) if why else rest.append(n)
    slow = f"On {gpu} the driver compiles them when they are first used (seconds to minutes, kept in its cache), and they do not "
    slow += "use what is new in that GPU."
    for why, some in known.items():
        yield _jit_finding(part, gpu, some, "warning", f"{why} {slow}")
    if rest:
        design = (
            expected is not None and expected.code == "fixed" and any("+PTX" in c for c in expected.archs)
        )
        if design:
            slow = f"The release compiles it for {', '.join(expected.archs if expected else ())} only. {slow}"
        yield _jit_finding(part, gpu, rest, "info" if design else "warning", slow)


def _jit_finding(part: Part, gpu: str, numbers: Sequence[int], severity: str, why: str) -> Finding:
    return Finding(
        check="jit-kernels",
        severity=severity,  # type: ignore[arg-type]  # one of two words
        what=f"{len(numbers)} of {len(part.units)} units of {part.short} answer {gpu} by JIT from PTX "
        f"{', '.join(_ptx(part, numbers))}{_names(part, numbers)}",
        where=part.name,
        why=why,
    )


def _peculiar(release: str, part: Part, number: int) -> str:
    names = part.kernels.get(number, ())
    for one in table().peculiarities:
        if one.module == part.short and (not release or within(one.releases, release)):
            if any(re.search(one.kernel, name) for name in names):
                return one.why
    return ""


def _reaches(unit: Unit, gpu: str) -> bool:
    plain = [code.arch for code in unit.codes if code.arch[-1:] not in "af"]
    return any(number(arch) <= number(gpu) for arch in plain)


def _serves(expected: ExpectedExtension, gpu: str) -> bool:
    return any(can_run(code, gpu) for code in expected.all_archs)


def _codes(part: Part, numbers: Iterable[int]) -> str:
    found = Counter(code.arch for n in numbers for code in part.units[n].codes)
    return ", ".join(sorted(found, key=lambda arch: (number(arch), arch)))


def _ptx(part: Part, numbers: Iterable[int]) -> list[str]:
    return sorted(
        {code.arch for n in numbers for code in part.units[n].codes if code.kind == "ptx"},
        key=lambda arch: (number(arch), arch),
    )


def _names(part: Part, numbers: Iterable[int]) -> str:
    """``: marlin::Marlin<...>, cutlass::Kernel and 3 more``, from the units whose kernels are known."""
    mangled = dict.fromkeys(name for n in numbers for name in part.kernels.get(n, ()))
    found = list(dict.fromkeys(_plain(name) for name in demangle(mangled)))
    if not found:
        return "."
    more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    return f": {', '.join(found[:_SHOWN])}{more}."


def _plain(name: str) -> str:
    """A kernel's name without its return type, parameters and template arguments."""
    name = re.sub(r"\(anonymous namespace\)", "{anonymous}", name)
    depth, out = 0, ""
    for char in name:
        if char == "<":
            depth += 1
        elif char == ">":
            depth -= 1
        elif char == "(" and depth == 0:
            break
        elif depth == 0:
            out += char
    return out.split()[-1] if out.split() else name


def _for(archs: Sequence[str]) -> str:
    return f" ({', '.join(archs)})" if archs else ""
