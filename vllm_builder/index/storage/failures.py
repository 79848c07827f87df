"""What an object store answers, as errors that say what to do. No credentials come into a message."""

from __future__ import annotations

import re
from typing import Final

from vllm_builder.errors import NotWritable, StorageFailed

_STATUS: Final = re.compile(r"status code: (\d{3})|HTTP status (?:client|server) error \((\d{3})")
_CODE: Final = re.compile(r"<Code>(\w{1,60})</Code>")
_SECRET: Final = re.compile(
    r"(?i)((?:signature|credential|x-amz-security-token|access[_-]?key|secret\w*|token|sig)[\"']?\s*[=:]\s*[\"']?)[^\s&,\"'<>]+"
)
_CREDENTIALS: Final = (
    "Look at the credentials (AWS_ACCESS_KEY_ID, AWS_PROFILE, or what the store's own tools read) and at what they "
    "may do there: read, write, list and delete below that address."
)


def failure(
    error: BaseException, doing: str, url: str, secrets: tuple[str, ...] = ()
) -> StorageFailed | NotWritable:
    """The error class for what a client of a store raised."""
    text = str(error)
    status, code = _status(error, text)
    what = f"{url} failed while {doing}."
    if code == "NoSuchBucket":
        return StorageFailed(
            what,
            why="There is no such bucket.",
            next="Create the bucket, or correct the address behind --to.",
        )
    if status in {401, 403} or code in {"InvalidAccessKeyId", "SignatureDoesNotMatch"}:
        return NotWritable(
            what,
            why=f"The store refuses it: {code or 'not allowed'} ({status or 403}).",
            next=_CREDENTIALS,
        )
    if status in {301, 307, 308} or code in {"PermanentRedirect", "AuthorizationHeaderMalformed"}:
        return StorageFailed(
            what,
            why=f"The bucket lies in another region ({code or status}).",
            next="Set AWS_REGION to its region.",
        )
    if status == 404:
        return StorageFailed(
            what,
            why="The store knows no such bucket or address (404).",
            next="Create the bucket, or correct the address behind --to.",
        )
    if status is not None and (status >= 500 or status == 429):
        return StorageFailed(
            what,
            why=f"The store answered {status} {code} again and again.".replace("  ", " "),
            next="Run the same command again later: what was uploaded stays, and the index is whole.",
        )
    if status is not None:
        return StorageFailed(what, why=f"The store answered {status} {code}.".replace(" .", "."))
    return StorageFailed(
        what,
        why=_first_line(text, secrets),
        next="Look whether the address is right and can be reached; then run the same command again: what was "
        "uploaded stays.",
    )


def _status(error: BaseException, text: str) -> tuple[int | None, str]:
    # botocore's ClientError holds what obstore's exceptions only tell.
    response = getattr(error, "response", None)
    if isinstance(response, dict):
        found = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        code = str(response.get("Error", {}).get("Code", ""))
        return (found if isinstance(found, int) else None), "" if code.isdigit() else code
    status = _STATUS.search(text)
    named = _CODE.search(text)
    return (int(status[1] or status[2]) if status else None), named[1] if named else ""


def _first_line(text: str, secrets: tuple[str, ...]) -> str:
    line = (text.strip().splitlines() or ["No reason was given."])[0]
    for secret in secrets:
        if len(secret) > 3:
            line = line.replace(secret, "***")
    return _SECRET.sub(r"\1***", line)[:400]
