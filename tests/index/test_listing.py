"""What is said of an index's state."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from index_helpers import make_wheel

from vllm_builder.index.candidates import read_candidate
from vllm_builder.index.listing import age, named_channels, own_channels, survey, waiting
from vllm_builder.index.manifest import Snapshot, load
from vllm_builder.index.publishing import publish
from vllm_builder.index.storage.folder import Folder
from vllm_builder.index.yanking import yank

VARIANTS = ("cpu", "cu129", "cu130")


def snapshot(storage: Folder) -> Snapshot:
    found = load(storage)
    assert found is not None
    return found


def put(storage: Folder, folder: Path, version: str, **more: object) -> None:
    publish(storage, [read_candidate(make_wheel(folder, "vllm", version))], **more)  # type: ignore[arg-type]


def test_the_newest_of_a_channel_is_one_that_is_offered(tmp_path: Path) -> None:
    storage = Folder(tmp_path / "index")
    for number in range(3):
        put(storage, tmp_path, f"1.0.dev{number}+cpu")
    yank(storage, "1.0.dev2", "bad")
    state = next(one for one in survey(snapshot(storage)).channels if one.channel == "nightly")
    assert (state.files, state.yanked, state.version) == (3, 1, "1.0.dev1+cpu")
    yank(storage, "1.0.dev1", "bad")
    yank(storage, "1.0.dev0", "bad")
    state = next(one for one in survey(snapshot(storage)).channels if one.channel == "nightly")
    assert (state.version, state.newest) == ("", None)


def test_a_group_says_what_it_still_lacks(tmp_path: Path) -> None:
    storage = Folder(tmp_path / "index")
    put(storage, tmp_path, "1.0.dev0+cpu", group="n0", expects=VARIANTS)
    put(storage, tmp_path, "1.0.dev0+cu129", group="n0", expects=VARIANTS)
    assert [(one.has, one.lacks) for one in waiting(snapshot(storage))] == [(("cpu", "cu129"), ("cu130",))]
    # One that is published by itself does not wait any longer, and is there for its group.
    put(storage, tmp_path, "1.0.dev0+cu129")
    assert [(one.has, one.lacks) for one in waiting(snapshot(storage))] == [(("cpu", "cu129"), ("cu130",))]
    put(storage, tmp_path, "1.0.dev0+cu130", group="n0", expects=VARIANTS)
    assert waiting(snapshot(storage)) == ()
    assert len(survey(snapshot(storage)).files) == 3


def test_channels_that_somebody_chose(tmp_path: Path) -> None:
    storage = Folder(tmp_path / "index")
    publish(
        storage,
        [read_candidate(make_wheel(tmp_path, "vllm", "1!1.0+cpu"), channels=("release", "a" * 40, "2.0"))],
    )
    ((_, file),) = snapshot(storage).files()
    assert own_channels(file) == {"1-1.0", "a" * 40}
    assert named_channels(file) == {"release", "2.0"}


@pytest.mark.parametrize(
    ("span", "said"),
    [
        (timedelta(seconds=-9), "0 s"),
        (timedelta(seconds=59), "59 s"),
        (timedelta(minutes=59, seconds=59), "59 min"),
        (timedelta(hours=47), "47 h"),
        (timedelta(days=2), "2 d"),
        (timedelta(days=400, hours=23), "400 d"),
    ],
)
def test_ages(span: timedelta, said: str) -> None:
    assert age(span) == said
