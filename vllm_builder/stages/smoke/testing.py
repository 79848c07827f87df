"""The smoke test as a whole."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from vllm_builder.cache import Cache
from vllm_builder.errors import InstallError, SmokeFailed
from vllm_builder.events import Emit, Note, StageFinished, StageStarted, ignore
from vllm_builder.fs import make_dir, os_errors, sha256_file
from vllm_builder.indexes import Indexes, read_indexes
from vllm_builder.memo import Memo
from vllm_builder.stages.environment.interpreter import find_interpreter
from vllm_builder.stages.smoke.computing import try_ops
from vllm_builder.stages.smoke.contents import Contents, read_contents
from vllm_builder.stages.smoke.install import install, wanted_torch
from vllm_builder.stages.smoke.loading import Loader
from vllm_builder.stages.smoke.model import Level, SmokeOptions, SmokeReport, Trial
from vllm_builder.stages.smoke.room import Room, room
from vllm_builder.stages.smoke.serving import Server, gpu_here


def smoke(
    options: SmokeOptions,
    cache: Cache,
    *,
    environ: Mapping[str, str] = os.environ,
    indexes: Indexes | None = None,
    emit: Emit = ignore,
) -> SmokeReport:
    """Install a wheel in an environment of its own, import what it holds, compute, and serve.

    A wheel that does not import, compute or serve is a report whose trials failed, and no exception: see
    :func:`require`. Nothing that is started or made outlives the call, but the log of a failure.

    Raises:
        WheelError: it cannot be read.
        PythonNotFound, ContradictionError, InstallError, ResolutionError: it cannot be installed.
        SettingsError, NoSpace, NotWritable
    """
    began = time.monotonic()
    contents = read_contents(options.wheel)
    full = options.full or options.serve
    python, _ = find_interpreter(
        options.python,
        str(contents.python),
        environ=environ,
        memo=Memo(cache.memo, "interpreter"),
        offline=options.offline,
        required_by="the wheel",
    )
    torch = wanted_torch(contents, options.torch)
    emit(StageStarted(stage="smoke", title=f"Smoke test of {options.wheel.name}"))
    folder = cache.smoke
    with room(folder, options.keep) as made:
        before = time.monotonic()
        done = install(
            contents,
            made,
            python,
            torch,
            full=full,
            further=options.further,
            indexes=indexes or read_indexes(environ),
            environ=environ,
            offline=options.offline,
            emit=emit,
        )
        if done.packages.get(contents.name) is None:
            raise InstallError(
                f"{contents.name} is not there after its wheel was installed.", next="Report this."
            )
        how = "the wheel with all its requirements" if full else "the wheel and torch alone"
        if not full and torch is None:
            how = "the wheel alone"
        trials = [
            Trial(
                level="install",
                name="install",
                outcome="passed",
                seconds=round(time.monotonic() - before, 2),
                detail=f"{how}: {len(done.packages)} packages",
            )
        ]
        loader = Loader(made, environ, done.torch, options.import_limit, python.tag, full)
        for trial in _run(contents, options, made, loader, environ, emit):
            emit(_note(trial))
            trials.append(trial)
        report = SmokeReport(
            wheel=str(options.wheel),
            sha256=sha256_file(options.wheel),
            version=contents.version,
            python=python.version,
            torch=done.torch,
            torch_reason=torch.reason if torch else "",
            full=full,
            packages=done.packages,
            trials=tuple(trials),
            kept=str(options.keep.absolute()) if options.keep else "",
        )
        if not report.good:
            report = report.model_copy(update={"log": _keep_log(report, made, options.keep, folder)})
    report = report.model_copy(update={"seconds": round(time.monotonic() - began, 2)})
    emit(StageFinished(stage="smoke", seconds=report.seconds, summary=summary(report)))
    return report


def _run(
    contents: Contents,
    options: SmokeOptions,
    made: Room,
    loader: Loader,
    environ: Mapping[str, str],
    emit: Emit,
) -> Iterator[Trial]:
    if loader.torch:
        yield (torch := loader.torch_itself())
        if torch.outcome == "failed":
            yield _not_tried("import", "everything else", "torch itself does not import here")
            return
    usable: list[Path] = []
    site = next((made.environment / "lib").glob("python*/site-packages"))
    for extension in contents.extensions:
        emit(Note(stage="smoke", message=f"Importing {extension.name}", level="debug"))
        yield (trial := loader.extension(extension))
        if trial.outcome == "passed":
            usable.append(site / extension.member)
    for name in contents.missing:
        yield Trial(
            level="import",
            name=name,
            outcome="failed",
            detail="its build record names it, and it is not in the wheel",
            next="Look at the wheel with `vllm-builder verify`, and build or fetch it again.",
        )
    if not (contents.extensions or contents.missing):
        yield _not_tried("import", "extensions", "the wheel holds none")
    packages = [name for name in contents.packages if name == contents.name] or contents.packages
    imported = True
    for name in packages:
        yield (trial := loader.package(name))
        imported = imported and trial.outcome == "passed"
    if not loader.torch:
        yield _not_tried("ops", "ops", "the wheel needs no torch to compare with")
    elif usable:
        yield from try_ops(made, environ, usable, options.answer_limit)
    else:
        yield _not_tried("ops", "ops", "no extension could be loaded")
    yield from _serving(contents, options, made, imported, environ, emit)


def _serving(
    contents: Contents,
    options: SmokeOptions,
    made: Room,
    imported: bool,
    environ: Mapping[str, str],
    emit: Emit,
) -> Iterator[Trial]:
    if not options.serve:
        yield _not_tried("serve", "serving", "it was not asked for (--serve)")
    elif not imported:
        yield _not_tried("serve", "serving", f"{contents.name} cannot be imported")
    elif device(contents) not in {"cpu", ""} and not gpu_here():
        yield _not_tried("serve", "serving", "needs a GPU, and this machine has none")
    else:
        yield from Server(
            made, environ, options.port, options.start_limit, options.answer_limit, emit
        ).trials()


def device(contents: Contents) -> str:
    """``cpu``, ``cuda``, ``empty``, or an empty string where neither record nor version say it."""
    if contents.record is not None:
        return contents.record.device
    local = contents.version.partition("+")[2]
    return "cuda" if local.startswith("cu") else local if local in {"cpu", "empty"} else ""


def require(report: SmokeReport) -> None:
    """Raise what failed.

    Raises:
        SmokeFailed
    """
    failed = report.failed
    if not failed:
        return
    first = failed[0]
    name = Path(report.wheel).name
    what = f"{name} does not pass: {first.name} failed."
    if len(failed) > 1:
        what = f"{name} does not pass: {len(failed)} of {len(report.trials)} trials failed."
    details = []
    for trial in failed:
        details.append(f"{trial.name}: {trial.detail}")
        details += [f"  | {line}" for line in trial.lines]
    cure = " ".join(dict.fromkeys(trial.next for trial in failed if trial.next))
    log = f" The log is {report.log}." if report.log else ""
    raise SmokeFailed(
        what, why=f"{first.name}: {first.detail.rstrip('.')}.", next=f"{cure}{log}", details=details
    )


def summary(report: SmokeReport) -> str:
    """``7 passed, 1 failed, 3 not tried``; never only what passed."""
    parts = [(report.count("passed"), "passed"), (report.count("failed"), "failed")]
    parts.append((report.count("not tried"), "not tried"))
    return ", ".join(f"{number} {word}" for number, word in parts if number)


def _not_tried(level: Level, name: str, why: str) -> Trial:
    return Trial(level=level, name=name, outcome="not tried", detail=why)


def _note(trial: Trial) -> Note:
    seconds = f" ({trial.seconds:.1f} s)" if trial.seconds else ""
    return Note(
        stage="smoke",
        message=f"{trial.name}: {trial.outcome}{seconds}: {trial.detail}",
        level="warning" if trial.outcome == "failed" else "debug",
    )


def _keep_log(report: SmokeReport, made: Room, keep: Path | None, folder: Path) -> str:
    """One file with everything that was printed, outside what is removed."""
    name = f"{Path(report.wheel).stem}.log"
    target = (keep.absolute() if keep else make_dir(folder / "logs")) / name
    with os_errors(f"writing {target}"), target.open("wb") as out:
        for log in sorted(made.logs.iterdir(), key=lambda p: p.stat().st_mtime_ns):
            out.write(f"==> {log.stem}\n".encode())
            with log.open("rb") as file:
                shutil.copyfileobj(file, out)
            out.write(b"\n")
    return str(target)
