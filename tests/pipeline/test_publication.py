"""From a build straight into an index."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest
from pipeline_helpers import Toy
from publish_helpers import key_pair

from vllm_builder import api
from vllm_builder.errors import (
    ContradictionError,
    ProvenanceError,
    PublishRefused,
    RecipeError,
    SettingsError,
)
from vllm_builder.events import StageFinished
from vllm_builder.index.manifest import load
from vllm_builder.index.storage import open_storage
from vllm_builder.pipeline import BuildResult
from vllm_builder.settings.layers import gather
from vllm_builder.settings.model import Settings
from vllm_builder.stages.verify import verifying


@pytest.fixture
def settings(toy: Toy) -> dict[str, Any]:
    folder = toy.folder
    return {"workspace": folder / "build", "cache_dir": folder / "cache", "publish": str(folder / "index")}


def obey(toy: Toy, settings: dict[str, Any], **more: Any) -> BuildResult:
    chosen = Settings(**settings, **more)
    return api.obey(toy.plan(), chosen, environ=toy.environ, emit=toy.events.append)


def published(toy: Toy) -> dict[str, tuple[str, ...]]:
    snapshot = load(open_storage(str(toy.folder / "index")))
    return {} if snapshot is None else {file.filename: file.channels for _, file in snapshot.files()}


def test_a_build_is_published_without_being_verified_twice(
    toy: Toy, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, real = [], verifying.verify
    monkeypatch.setattr(verifying, "verify", lambda *a, **k: (asked.append(1), real(*a, **k))[1])
    result = obey(toy, settings, channel=("nightly",))
    assert result.published is not None
    assert result.published.wheels[0].provenance == "unsigned"
    assert published(toy) == {result.wheel.name: ("1.2.3", "nightly")}
    assert len(asked) == 1
    assert [e.stage for e in toy.events if isinstance(e, StageFinished)][-1] == "publish"
    assert "published" in result.model_dump(mode="json")


def test_a_wheel_from_the_store_is_published_as_well(toy: Toy, settings: dict[str, Any]) -> None:
    obey(toy, settings | {"publish": None})
    assert published(toy) == {}
    result = obey(toy, settings)
    assert result.from_store
    assert result.wheel.name in published(toy)
    again = obey(toy, settings)
    assert again.published is not None
    assert again.published.wheels[0].outcome == "unchanged"
    assert toy.compiled == 1


def test_a_publishing_that_fails_leaves_the_wheel_and_says_how_to_publish_it_alone(
    toy: Toy, settings: dict[str, Any]
) -> None:
    first = obey(toy, settings, variant="one")
    with pytest.raises(PublishRefused) as caught:
        obey(toy, settings, variant="two", channel=("a", "b"))
    assert first.wheel.is_file()
    command = caught.value.next.partition("publish it alone: ")[2]
    assert shlex.split(command) == [
        *("vllm-builder", "index", "publish", str(first.wheel), "--to", str(toy.folder / "index")),
        *("--channel", "a", "--channel", "b", "--variant", "two"),
    ]
    assert obey(toy, settings | {"publish": None}).from_store


@pytest.mark.parametrize(
    ("more", "error"),
    [
        ({"sign_key": Path("no-such-key.pem")}, ProvenanceError),
        ({"channel": ("../up",)}, SettingsError),
        ({"extensions": ("_C",)}, ContradictionError),
        ({"offline": True, "publish": "https://wheels.example/"}, ContradictionError),
    ],
)
def test_what_cannot_be_published_is_said_before_anything_is_built(
    toy: Toy, settings: dict[str, Any], more: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        obey(toy, settings | more)
    assert toy.compiled == 0


def test_the_passphrase_of_a_key_comes_from_the_environment(
    toy: Toy, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    private, _ = key_pair(toy.folder, passphrase="open sesame")
    with pytest.raises(ProvenanceError, match="encrypted"):
        obey(toy, settings, sign_key=private)
    secret = {"VLLM_BUILDER_SIGN_PASSPHRASE": "open sesame"}
    monkeypatch.setattr(Toy, "environ", toy.environ | secret)
    gather({}, toy.environ)  # it is no setting, and not taken for a misspelt one
    result = obey(toy, settings, sign_key=private)
    assert result.published is not None
    assert result.published.wheels[0].provenance == "signed"


# Where the choice comes from -----------------------------------------------------------------------
def test_from_the_environment_and_the_settings_file(tmp_path: Path) -> None:
    (tmp_path / "vllm-builder.toml").write_text(
        'publish = "/srv/wheels"\nsign-key = "team.pem"\nchannel = ["x"]\n'
    )
    environ = {"VLLM_BUILDER_CHANNEL": "nightly,extra", "VLLM_BUILDER_VARIANT": "cu130"}
    found = gather({"version": "1"}, environ, cwd=tmp_path).resolve().settings
    assert (found.publish, found.sign_key, found.channel, found.variant) == (
        *("/srv/wheels", Path("team.pem"), ("nightly", "extra"), "cu130"),
    )


def test_a_recipe_is_an_input_of_the_wheel_and_cannot_say_it(tmp_path: Path) -> None:
    recipe = tmp_path / "own.toml"
    recipe.write_text('publish = "/srv/wheels"\n')
    with pytest.raises(RecipeError, match="publish"):
        gather({"version": "1", "recipe": str(recipe)}, {}, cwd=tmp_path)


@pytest.mark.parametrize("place", ["command line", "environment", "file"])
def test_an_address_with_a_password_is_refused_and_not_repeated(tmp_path: Path, place: str) -> None:
    address = "https://user:hunter2@wheels.example/simple"
    if place == "file":
        (tmp_path / "vllm-builder.toml").write_text(f'publish = "{address}"\n')
    given = {"publish": address} if place == "command line" else {}
    environ = {"VLLM_BUILDER_PUBLISH": address} if place == "environment" else {}
    with pytest.raises(SettingsError) as caught:
        gather({"version": "1", **given}, environ, cwd=tmp_path).resolve()
    assert "hunter2" not in str(caught.value.as_dict())


def test_saying_how_without_saying_where_is_no_silent_nothing() -> None:
    with pytest.raises(SettingsError, match="--channel"):
        api.plan("v0.9.2", channel=("nightly",), environ={})
