"""Which value counts, and where it came from."""

from __future__ import annotations

from pathlib import Path

import pytest

from vllm_builder.errors import RecipeError, SettingsError
from vllm_builder.settings import gather
from vllm_builder.settings.layers import add_device_recipe, parse_pairs
from vllm_builder.settings.model import Settings
from vllm_builder.settings.recipe import available, load_recipe, parse_choices


def _write(folder: Path, text: str) -> Path:
    path = folder / "vllm-builder.toml"
    path.write_text(text)
    return path


def test_command_line_over_environment_over_file_over_recipe_over_default(tmp_path: Path) -> None:
    recipe = tmp_path / "mine.toml"
    recipe.write_text('torch = "1.0"\njobs = 1\nbuild-type = "Debug"\nnvcc-threads = 2\n')
    _write(tmp_path, f'recipe = "{recipe}"\ntorch = "2.0"\njobs = 2\nbuild-type = "MinSizeRel"\n')
    environ = {"VLLM_BUILDER_TORCH": "3.0", "VLLM_BUILDER_JOBS": "3"}
    resolved = gather({"torch": "4.0"}, environ, cwd=tmp_path).resolve()
    got = resolved.settings
    assert (got.torch, got.jobs, got.build_type, got.nvcc_threads) == ("4.0", 3, "MinSizeRel", 2)
    assert resolved.origins["torch"] == "command line"
    assert resolved.origins["jobs"] == "VLLM_BUILDER_JOBS"
    assert resolved.origins["build_type"].endswith("vllm-builder.toml")
    assert resolved.origins["nvcc_threads"] == "recipe mine"
    assert resolved.origins["offline"] == "default"


def test_the_usual_variables_are_honoured(tmp_path: Path) -> None:
    environ = {
        "MAX_JOBS": "8",
        "NVCC_THREADS": "2",
        "TORCH_CUDA_ARCH_LIST": "9.0a;10.0",
        "CMAKE_BUILD_TYPE": "RelWithDebInfo",
        "VLLM_TARGET_DEVICE": "cuda",
    }
    got = gather({}, environ, cwd=tmp_path).resolve().settings
    # Whether MAX_JOBS is divided depends on the device, which the plan decides.
    assert (got.jobs, got.nvcc_threads) == (8, 2)
    assert got.arch == ("9.0a", "10.0")
    assert (got.build_type, got.device) == ("RelWithDebInfo", "cuda")


@pytest.mark.parametrize("text", ["0", "-2", "1.5", "many"])
def test_max_jobs_that_is_no_number_of_jobs_is_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="jobs") as caught:
        gather({}, {"MAX_JOBS": text, "NVCC_THREADS": "2"}, cwd=tmp_path).resolve()
    assert "MAX_JOBS" in caught.value.why


def test_our_variable_counts_before_the_usual_one(tmp_path: Path) -> None:
    got = gather({}, {"MAX_JOBS": "8", "VLLM_BUILDER_JOBS": "5"}, cwd=tmp_path).resolve()
    assert got.settings.jobs == 5


def test_an_unknown_variable_of_ours_is_refused_with_the_nearest_name(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="VLLM_BUILDER_DEVICE"):
        gather({}, {"VLLM_BUILDER_DEVCE": "cpu"}, cwd=tmp_path)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"device": "tpu"}, "device"),
        ({"jobs": "many"}, "jobs"),
        ({"jobs": 0}, "jobs"),
        ({"build_type": "Fast"}, "build-type"),
    ],
)
def test_a_bad_value_names_the_setting_and_its_origin(
    options: dict[str, object], word: str, tmp_path: Path
) -> None:
    with pytest.raises(SettingsError, match=word) as caught:
        gather(options, {}, cwd=tmp_path).resolve()
    assert "command line" in caught.value.why


def test_a_misspelt_key_of_the_settings_file_is_refused(tmp_path: Path) -> None:
    _write(tmp_path, 'devize = "cpu"\n')
    with pytest.raises(SettingsError, match="did you mean device"):
        gather({}, {}, cwd=tmp_path)


def test_a_misspelt_key_of_a_recipe_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "r.toml"
    path.write_text('torch-indx = "cu129"\n')
    with pytest.raises(RecipeError, match="did you mean torch-index"):
        load_recipe(str(path))


@pytest.mark.parametrize(
    "text", ["device = ", '[[when]]\nreleases = "banana"\n', "when = 3\n", "description = 3\n"]
)
def test_a_broken_recipe_is_a_clear_error(text: str) -> None:
    with pytest.raises(RecipeError):
        parse_choices(text, "recipe x")


def test_an_unknown_recipe_names_near_ones() -> None:
    with pytest.raises(RecipeError, match="b200"):
        load_recipe("b20")


def test_when_tables_count_for_their_releases_only() -> None:
    choices = parse_choices(
        '[variables]\nA = "1"\n[[when]]\nreleases = "<0.17"\nvariables = { B = "2" }\n', "recipe x"
    )
    assert choices.for_release("0.9.2")["variables"] == {"A": "1", "B": "2"}
    assert choices.for_release("0.17.0")["variables"] == {"A": "1"}
    assert choices.for_release(None)["variables"] == {"A": "1"}
    assert choices.for_release("0.16.1.dev3")["variables"] == {"A": "1", "B": "2"}


def test_variables_of_several_layers_are_merged(tmp_path: Path) -> None:
    _write(tmp_path, '[variables]\nA = "file"\nB = "file"\n')
    got = gather({"variables": {"A": "line"}}, {}, cwd=tmp_path).resolve().settings
    assert got.variables == {"A": "line", "B": "file"}


def test_the_devices_own_recipe_applies_unless_another_or_none_is_named(tmp_path: Path) -> None:
    layers = gather({}, {}, cwd=tmp_path)
    assert add_device_recipe(layers, "cpu")
    assert layers.resolve("0.9.2").settings.variables == {"VLLM_CPU_DISABLE_AVX512": "true"}
    assert not add_device_recipe(gather({"recipe": "none"}, {}, cwd=tmp_path), "cpu")
    assert not add_device_recipe(gather({"recipe": "b200"}, {}, cwd=tmp_path), "cpu")
    assert not add_device_recipe(gather({}, {}, cwd=tmp_path), "cuda")


def test_every_shipped_recipe_loads_and_resolves(tmp_path: Path) -> None:
    names = sorted(available())
    assert {"b200", "cpu", "empty", "v100"} <= set(names)
    for name in names:
        choices = load_recipe(name)
        assert choices.description
        settings = gather({"recipe": name}, {}, cwd=tmp_path).resolve("0.9.2").settings
        assert settings.device is not None


@pytest.mark.parametrize("item", ["A", "=1", ""])
def test_pairs_must_be_pairs(item: str) -> None:
    with pytest.raises(SettingsError):
        parse_pairs((item,), "command line")


def test_every_setting_has_help() -> None:
    assert all(info.description for info in Settings.model_fields.values())


def test_the_typed_options_are_the_settings() -> None:
    from vllm_builder.settings.options import Options

    assert list(Options.__annotations__) == [name for name in Settings.model_fields if name != "version"]


@pytest.mark.parametrize("key", ['device = "cpu"', 'source = "git"', 'cache-dir = "/x"'])
def test_a_when_table_cannot_hold_what_is_needed_before_the_release_is_known(key: str) -> None:
    with pytest.raises(RecipeError):
        parse_choices(f'[[when]]\nreleases = ">=0.9"\n{key}\n', "recipe x")


def test_a_table_that_is_none_is_refused_though_a_higher_layer_adds_to_it(tmp_path: Path) -> None:
    _write(tmp_path, "variables = 3\n")
    with pytest.raises(SettingsError, match="variables = 3") as caught:
        gather({"variables": {"A": "b"}}, {}, cwd=tmp_path).resolve()
    assert "vllm-builder.toml" in caught.value.why
