"""Asking an OpenAI server on loopback, and judging the shape of what it answers."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Callable
from typing import Any

HOST = "127.0.0.1"
TOKENS = 8
"""How many are asked for: ``ignore_eos`` makes it exactly as many."""
_MOST = 1 << 20
"""Bytes of an answer."""


def free_port() -> int:
    with socket.socket() as one:
        one.bind((HOST, 0))
        return int(one.getsockname()[1])


def in_use(port: int) -> bool:
    """Whether something listens there."""
    with socket.socket() as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            one.bind((HOST, port))
        except OSError:
            return True
    return False


def ask(port: int, path: str, body: object = None, *, limit: float) -> tuple[int, bytes]:
    """One request, without any proxy: status and content.

    Raises:
        OSError, http.client.HTTPException: no answer, or none of HTTP.
    """
    connection = http.client.HTTPConnection(HOST, port, timeout=limit)
    try:
        if body is None:
            connection.request("GET", path)
        else:
            connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        return answer.status, answer.read(_MOST)
    finally:
        connection.close()


def models(model: str) -> Callable[[Any], str]:
    """A judge of /v1/models: an empty string, or what is wrong."""

    def judge(answer: Any) -> str:
        served = [one.get("id") for one in answer["data"]]
        return "" if model in served else f"it serves {served}, not {model}"

    return judge


def completion(model: str) -> Callable[[Any], str]:
    return lambda answer: _shape(answer, model, "text_completion", lambda choice: choice["text"])


def chat(model: str) -> Callable[[Any], str]:
    def text(choice: Any) -> Any:
        message = choice["message"]
        return message["content"] if message["role"] == "assistant" else None

    return lambda answer: _shape(answer, model, "chat.completion", text)


def _shape(answer: Any, model: str, kind: str, text: Callable[[Any], Any]) -> str:
    if answer.get("object") != kind:
        return f"object is {answer.get('object')!r}, not {kind!r}"
    if answer["model"] != model:
        return f"model is {answer['model']!r}, not {model!r}"
    if len(answer["choices"]) != 1:
        return f"{len(answer['choices'])} choices instead of one"
    choice = answer["choices"][0]
    if not isinstance(text(choice), str):
        return "the choice has no text"
    if choice["finish_reason"] != "length":
        return f"finish_reason is {choice['finish_reason']!r}, not 'length'"
    tokens = answer["usage"]["completion_tokens"]
    return "" if tokens == TOKENS else f"{tokens} tokens instead of {TOKENS}"


def judged(status: int, content: bytes, judge: Callable[[Any], str]) -> tuple[Any, str]:
    """The answer, and what is wrong with it (empty: nothing)."""
    if status != 200:
        return None, f"HTTP status {status}"
    try:
        answer = json.loads(content)
    except ValueError:
        return None, "it is no JSON"
    try:
        return answer, judge(answer)
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        return answer, f"it lacks what such an answer has ({type(error).__name__}: {error})"
