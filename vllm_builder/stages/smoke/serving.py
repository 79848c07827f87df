"""The wheel's OpenAI server on loopback, with a tiny model made on the spot: started, asked, taken down."""

from __future__ import annotations

import http.client
import re
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vllm_builder.events import Emit, Note, Output, Progress
from vllm_builder.stages.smoke import asking, deaths
from vllm_builder.stages.smoke.loading import child_environ, died, program
from vllm_builder.stages.smoke.model import Trial
from vllm_builder.stages.smoke.program import Program, run_program, tail
from vllm_builder.stages.smoke.room import Room

_MODEL_LIMIT = 300.0
_GRACE = 5.0
"""Seconds that the server has to end by itself."""
_POLL = 0.5
_TAKEN = re.compile(r"[Aa]ddress already in use|EADDRINUSE")
_ERROR = re.compile(r"(?:^|\s)((?:\w+\.)*\w*(?:Error|Exception)): \S.*")

_QUIET = {
    # Nothing is fetched and nothing is told to anybody.
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    # GiB; without, a CPU server takes 4 GiB or half of the memory, by release.
    "VLLM_CPU_KVCACHE_SPACE": "1",
}
_OPTIONS = ("--enforce-eager", "--dtype", "bfloat16", "--max-model-len", "128", "--max-num-seqs", "4")


@dataclass(frozen=True, slots=True)
class Server:
    """How to serve. ``port`` None: any free one. Limits in seconds."""

    room: Room
    environ: Mapping[str, str]
    port: int | None
    start_limit: float
    answer_limit: float
    emit: Emit

    def trials(self) -> Iterator[Trial]:
        """Make the model, start, ask, and take down: one trial after the other, until one fails."""
        made = self._model()
        yield made
        if made.outcome == "failed":
            return
        port = self.port or asking.free_port()
        if asking.in_use(port):
            yield _failed(
                "server start",
                0,
                f"port {port} of {asking.HOST} is in use",
                "Give another --port, or none: then a free one is taken.",
            )
            return
        log = self.room.logs / "server.log"
        # A name that no other server would know: an answer from the wrong one is noticed.
        model = f"smoke-{secrets.token_hex(6)}"
        with Program(
            self._command(port, model),
            env=child_environ(self.environ, self.room, **_QUIET),
            cwd=self.room.work,
            log=log,
            grace=_GRACE,
        ) as server:
            yield from self._asked(server, port, model)
            began = time.monotonic()
        seconds = round(time.monotonic() - began, 2)
        if asking.in_use(port):
            yield _failed(
                "taken down",
                seconds,
                f"something still listens on port {port}",
                "See the processes of this machine.",
            )
            return
        yield Trial(
            level="serve", name="taken down", outcome="passed", seconds=seconds, detail="nothing is left"
        )

    def _model(self) -> Trial:
        self.emit(Note(stage="smoke", message="Making a tiny model with random weights"))
        limit = _MODEL_LIMIT
        ended = run_program(
            program(self.room, "tiny_model", str(self.room.work / "model")),
            env=child_environ(self.environ, self.room, **_QUIET),
            cwd=self.room.work,
            log=self.room.logs / "model.log",
            limit=limit,
        )
        trial = Trial(level="serve", name="tiny model", outcome="passed", seconds=round(ended.seconds, 2))
        if ended.status:
            return died(trial, ended, limit)
        if ended.status is None:
            return died(trial, ended, limit)
        size = sum(f.stat().st_size for f in (self.room.work / "model").iterdir())
        return trial.model_copy(update={"detail": f"Llama of 2 layers, {size / 1e6:.1f} MB"})

    def _command(self, port: int, model: str) -> list[str]:
        return [
            *(str(self.room.python), "-I", "-m", "vllm.entrypoints.openai.api_server"),
            *("--model", str(self.room.work / "model"), "--served-model-name", model),
            *("--host", asking.HOST, "--port", str(port), *_OPTIONS),
        ]

    def _asked(self, server: Program, port: int, model: str) -> Iterator[Trial]:
        started = self._healthy(server, port)
        yield started
        if started.outcome == "failed":
            return
        settings = {"model": model, "max_tokens": asking.TOKENS, "temperature": 0, "ignore_eos": True}
        messages = [{"role": "user", "content": "How are you today?"}]
        text = "The quick brown fox"
        for name, path, body, judge in (
            ("models", "/v1/models", None, asking.models(model)),
            ("completion", "/v1/completions", settings | {"prompt": text}, asking.completion(model)),
            (
                "chat completion",
                "/v1/chat/completions",
                settings | {"messages": messages},
                asking.chat(model),
            ),
        ):
            trial = self._question(server, port, name, path, body, judge)
            yield trial
            if trial.outcome == "failed":
                return

    def _healthy(self, server: Program, port: int) -> Trial:
        began = time.monotonic()
        self.emit(Note(stage="smoke", message=f"Starting the server on {asking.HOST}:{port}"))
        last = "no connection"
        while (waited := time.monotonic() - began) < self.start_limit:
            lines = server.new_lines()
            for line in lines:
                self.emit(Output(stage="smoke", line=line))
            self.emit(
                Progress(
                    stage="smoke",
                    task="server start",
                    done=round(waited),
                    total=None,
                    unit="s",
                    current=tuple(lines[-1:]),
                )
            )
            status = server.status()
            if status is not None:
                return self._ended(server, status, waited, "before it was ready", port)
            try:
                code, _ = asking.ask(port, "/health", limit=5)
            except (OSError, http.client.HTTPException) as error:
                last = str(error) or type(error).__name__
            else:
                if code == 200:
                    return Trial(
                        level="serve",
                        name="server start",
                        outcome="passed",
                        seconds=round(waited, 2),
                        detail=f"/health answered on port {port}",
                    )
                last = f"HTTP status {code}"
            server.wait(_POLL)
        return _failed(
            "server start",
            waited,
            f"/health did not answer within {self.start_limit:g} s; last: {last}",
            "Give it more time with --timeout, or see the end of its log.",
            tail(server.log),
        )

    def _question(
        self, server: Program, port: int, name: str, path: str, body: object, judge: Callable[[Any], str]
    ) -> Trial:
        began = time.monotonic()
        try:
            code, content = asking.ask(port, path, body, limit=self.answer_limit)
        except TimeoutError:
            waited = time.monotonic() - began
            why = f"{path} did not answer within {self.answer_limit:g} s"
            return _failed(name, waited, why, "Give it more time with --timeout.", tail(server.log))
        except (OSError, http.client.HTTPException) as error:
            waited = time.monotonic() - began
            status = server.wait(2)
            if status is not None:
                return self._ended(server, status, waited, f"when it was asked for {path}", port, name)
            why = f"{path} gave no answer: {error or type(error).__name__}"
            return _failed(name, waited, why, "See the end of its log.", tail(server.log))
        waited = time.monotonic() - began
        answer, wrong = asking.judged(code, content, judge)
        if wrong:
            shown = content[:300].decode("utf-8", "replace")
            why = f"{path} answered, but {wrong}"
            return _failed(
                name,
                waited,
                why,
                "See the answer and the end of the log.",
                (f"answer: {shown}", *tail(server.log)),
            )
        used = answer.get("usage") if isinstance(answer, dict) else None
        detail = f"{used['completion_tokens']} tokens for {used['prompt_tokens']}" if used else "it is ours"
        return Trial(level="serve", name=name, outcome="passed", seconds=round(waited, 2), detail=detail)

    def _ended(
        self, server: Program, status: int, waited: float, when: str, port: int, name: str = "server start"
    ) -> Trial:
        lines = tail(server.log, 400)
        if any(_TAKEN.search(line) for line in lines):
            why = f"port {port} was taken by another program while the server started"
            return _failed(name, waited, why, "Try again; --port chooses another.", lines[-20:])
        if status > 128:
            why, cure = deaths.explain_signal(status - 128, deaths.processor_flags())
            return _failed(name, waited, f"the server was ended {when} by {why}", cure, lines[-20:])
        errors = [match[0].strip() for line in lines if (match := _ERROR.search(line))]
        # The first of a chain: what follows tells only that the engine is gone.
        cause = f": {errors[0][:300]}" if errors else ""
        return _failed(
            name,
            waited,
            f"the server ended {when}, with status {status}{cause}",
            "See the end of its log. If a requirement is newer than the release knows, give an older one: "
            "--with 'transformers<4.54'.",
            lines[-20:],
        )


def _failed(name: str, seconds: float, why: str, cure: str, lines: tuple[str, ...] = ()) -> Trial:
    return Trial(
        level="serve",
        name=name,
        outcome="failed",
        seconds=round(seconds, 2),
        detail=why,
        next=cure,
        lines=lines,
    )


def gpu_here(root: Path = Path("/")) -> bool:
    """Whether the NVIDIA driver of this machine offers a GPU."""
    # Under WSL the GPU is behind /dev/dxg.
    return (root / "dev/dxg").exists() or any((root / "dev").glob("nvidia[0-9]*"))
