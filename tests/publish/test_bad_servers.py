"""Upload servers that refuse, break off or say something else than they should."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import certifi
import pytest
from publish_helpers import Publisher, key_pair, refused
from upload_servers import Answer, BadServer, certificate

from vllm_builder.errors import PublishRefused, SettingsError, StorageFailed
from vllm_builder.events import Progress
from vllm_builder.fs import sha256_file

Wheels = Callable[..., Path]
NAME = "demo-1.0-py3-none-any.whl"


@pytest.mark.parametrize(
    ("status", "says", "hint"),
    [
        (401, "401 Unauthorized: who are you?", "Give credentials"),
        (403, "403 Forbidden: who are you?", "Use an account"),
        (404, "404 Not Found: who are you?", "Check the address"),
        (413, "413 Request Entity Too Large: who are you?", "client_max_body_size"),
        (400, "400 Bad Request: who are you?", "server's log"),
    ],
)
def test_a_refusal_is_told_in_the_servers_words_and_not_tried_again(
    publisher: Publisher, wheels: Wheels, bad: BadServer, url: str, status: int, says: str, hint: str
) -> None:
    bad.answers = [
        Answer(status, "<html><head><title>x</title></head><p>who are <b>you?</b></p>", "text/html")
    ]
    error = refused(publisher, wheels(), url)
    assert isinstance(error, StorageFailed)
    assert error.exit_code == 92
    assert says in error.why
    assert hint in error.next
    assert bad.uploads == 1


def test_a_conflict_is_a_refusal(publisher: Publisher, wheels: Wheels, bad: BadServer, url: str) -> None:
    bad.answers = [Answer(409, "exists")]
    error = refused(publisher, wheels(), url)
    assert isinstance(error, PublishRefused)
    bad.answers = [Answer(400, "File already exists. See the docs.")]
    assert isinstance(refused(publisher, wheels(), url), PublishRefused)


def test_a_conflict_about_the_same_bytes_is_none(
    publisher: Publisher, wheels: Wheels, bad: BadServer, url: str
) -> None:
    """Somebody else was first, between our look and our upload."""
    bad.answers = [Answer(409, "exists", keep=True)]
    assert publisher(wheels(), to=url).wheels[0].outcome == "published"


def test_a_server_that_fails_is_given_up_after_some_tries(
    publisher: Publisher, wheels: Wheels, bad: BadServer, url: str
) -> None:
    bad.answers = [Answer(500, "Traceback (most recent call last)")]
    error = refused(publisher, wheels(), url)
    assert isinstance(error, StorageFailed)
    assert "500 Internal Server Error: Traceback" in error.why
    assert bad.uploads == 3


def test_a_server_that_is_busy_for_a_moment(
    publisher: Publisher, wheels: Wheels, bad: BadServer, url: str
) -> None:
    bad.answers = [Answer(503), Answer(keep=True)]
    assert publisher(wheels(), to=url).wheels[0].outcome == "published"
    assert "Once more" in publisher.told
    assert set(bad.files) == {NAME}


def test_a_connection_that_breaks_in_mid_upload(
    publisher: Publisher, wheels: Wheels, bad: BadServer, url: str
) -> None:
    bad.answers = [Answer(cut=True), Answer(keep=True)]
    large = f"text = '{random.Random(1).randbytes(2_000_000).hex()}'\n"
    assert publisher(wheels(body=large), to=url).wheels[0].outcome == "published"
    told = [event for event in publisher.events if isinstance(event, Progress)]
    assert told
    assert told[-1].done == told[-1].total
    bad.files.clear()
    bad.uploads, bad.answers = 0, [Answer(cut=True)]
    error = refused(publisher, wheels(body=large), url)
    assert isinstance(error, StorageFailed)
    assert "failed" in error.what
    assert bad.uploads == 3


def test_a_server_that_took_it_and_did_not_say_so(
    publisher: Publisher, wheels: Wheels, bad: BadServer, url: str
) -> None:
    bad.answers = [Answer(keep=True, late=1.5), Answer(500)]
    assert publisher(wheels(), to=url).wheels[0].outcome == "published"
    assert bad.uploads == 1


def test_a_server_that_never_answers(publisher: Publisher, wheels: Wheels, bad: BadServer, url: str) -> None:
    bad.answers = [Answer(late=1.5)]
    error = refused(publisher, wheels(), url)
    assert isinstance(error, StorageFailed)
    assert "does not answer" in error.what


def test_nobody_listens(publisher: Publisher, wheels: Wheels, bad: BadServer, url: str) -> None:
    with bad.serving() as gone:
        pass
    error = refused(publisher, wheels(), gone)
    assert isinstance(error, StorageFailed)
    assert "refused" in error.why


def test_a_certificate_of_ones_own(
    publisher: Publisher,
    wheels: Wheels,
    bad: BadServer,
    url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file = certificate(tmp_path)
    with bad.serving(file) as secure:
        error = refused(publisher, wheels(), secure)
        assert isinstance(error, StorageFailed)
        assert "not trusted" in error.what
        assert "TWINE_CERT" in error.next
        assert "certificate verify failed" in error.why
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", certifi.where())
        publisher.environ |= {"TWINE_CERT": str(file)}
        assert publisher(wheels(), to=secure).wheels[0].outcome == "published"


def test_a_login_page_is_no_success(publisher: Publisher, wheels: Wheels, bad: BadServer, url: str) -> None:
    bad.answers = [Answer(200, "<html>Please sign in</html>", "text/html")]
    error = refused(publisher, wheels(), url)
    assert isinstance(error, StorageFailed)
    assert "does not show it" in error.what
    assert f"{url}simple/demo/" in error.why


def test_a_page_that_is_none(publisher: Publisher, wheels: Wheels, bad: BadServer, url: str) -> None:
    bad.page = Answer(200, "\x7fELF", "application/octet-stream")
    error = refused(publisher, wheels(), url)
    assert isinstance(error, StorageFailed)
    assert "--simple-url" in error.next
    assert bad.uploads == 0


def test_a_page_that_may_not_be_seen(publisher: Publisher, wheels: Wheels, bad: BadServer, url: str) -> None:
    bad.page = Answer(403, "no")
    assert isinstance(refused(publisher, wheels(), url), StorageFailed)
    assert bad.uploads == 0


def test_a_redirect_is_not_followed_with_the_wheel(
    publisher: Publisher, wheels: Wheels, bad: BadServer, url: str
) -> None:
    bad.answers = [Answer(302, headers={"Location": "https://u:p@elsewhere.example/x?token=1"})]
    error = refused(publisher, wheels(), url)
    assert "It redirects to https://elsewhere.example/x." in error.why
    assert "?" not in error.why


def test_what_another_host_has_does_not_count(
    publisher: Publisher, wheels: Wheels, bad: BadServer, url: str
) -> None:
    """As pypiserver does for a project that it has not."""
    other = BadServer()
    other.files[NAME] = "0" * 64
    with other.serving() as elsewhere:
        bad.page = Answer(303, headers={"Location": f"{elsewhere}simple/demo/"})
        bad.answers = [Answer(403)]
        refused(publisher, wheels(), url)
    assert bad.uploads == 1
    assert other.asked == []


def test_several_wheels_and_one_that_is_there_with_other_bytes(
    publisher: Publisher, wheels: Wheels, bad: BadServer, url: str
) -> None:
    bad.files[NAME] = "0" * 64
    with pytest.raises(PublishRefused, match="another file of the name"):
        publisher(wheels(version="2.0"), wheels(), to=url)
    assert bad.uploads == 0


def test_what_arrived_before_a_failure_is_named(
    publisher: Publisher, wheels: Wheels, bad: BadServer, url: str
) -> None:
    bad.answers = [Answer(keep=True), Answer(403)]
    first, second = wheels(version="2.0"), wheels(version="3.0")
    with pytest.raises(StorageFailed) as caught:
        publisher(first, second, to=url)
    assert caught.value.details == (f"uploaded before: {first.name}",)
    bad.answers, bad.uploads = [Answer(keep=True)], 0
    assert [one.outcome for one in publisher(first, second, to=url).wheels] == ["unchanged", "published"]
    assert bad.uploads == 1


# What such a server cannot give --------------------------------------------------------------------
@pytest.mark.parametrize(
    ("to", "more", "said"),
    [
        ("https://s.example/", {"channels": ("nightly",)}, "no place for it"),
        ("https://s.example/{channel}/", {"variant": "cu130"}, "no place for it"),
        ("https://s.example/", {"group": "g"}, "group"),
        ("https://s.example/{chanel}/", {}, "{chanel}"),
        ("https://{channel}.example/", {}, "host name"),
        ("https://s.example/?a=1", {}, "no address"),
        ("https://", {}, "no address"),
        ("http://s.example:port/", {}, "no address"),
    ],
)
def test_settings_that_do_not_go_together(
    publisher: Publisher, wheels: Wheels, to: str, more: dict[str, Any], said: str
) -> None:
    with pytest.raises(SettingsError) as caught:
        publisher(wheels(), to=to, **more)
    assert said in caught.value.what


def test_a_key_has_nothing_to_sign_there(publisher: Publisher, wheels: Wheels, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="no provenance"):
        publisher(wheels(), to="https://s.example/", sign_key=key_pair(tmp_path)[0])


def test_a_server_without_hashes_is_asked_for_the_file(
    publisher: Publisher, wheels: Wheels, bad: BadServer, url: str
) -> None:
    wheel = wheels()
    bad.page = Answer(
        200, f'<!DOCTYPE html><html><body><a href="{NAME}">{NAME}</a></body></html>', "text/html"
    )
    # The page is served in place of the file, too: other bytes.
    assert isinstance(refused(publisher, wheel, url), PublishRefused)
    assert sha256_file(wheel)
    assert bad.uploads == 0
