"""Reading patch sets, and choosing the operations for one build."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from packaging.version import Version
from patch_helpers import write

from vllm_builder.errors import PatchSetError, SettingsError
from vllm_builder.model import digest
from vllm_builder.stages.patch import READ_PATTERNS, PatchSelection, PatchSet, load, patterns_of, select
from vllm_builder.stages.patch.selecting import matches_release

HEAD = 'description = "a set"\n'
CREATE = '[[operation]]\naction = "create_file"\nfile = "x"\ncontent = "y"\n'


def one(tmp_path: Path, text: str) -> dict[str, PatchSet]:
    write(tmp_path, {"one.toml": text})
    return load([tmp_path])


def chosen(sets: dict[str, PatchSet], release: str = "0.9.2", **more: object) -> PatchSelection:
    arguments = {"release": release, "device": "cpu", "facts": {}, **more}
    return select(sets, **arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("descriptoin = 'x'\n" + CREATE, r"descriptoin: unknown key \(did you mean description\?\)"),
        (HEAD + CREATE.replace("file =", "flie ="), r"operation 1 \(create_file\), flie: unknown key .*file\?"),
        (HEAD + CREATE.replace("create_file", "creat_file"), r"operation 1: unknown action 'creat_file'.*create_file"),
        (HEAD + CREATE + CREATE.replace('"x"', "1"), r"operation 2 \(create_file\), file: 1 .*string"),
        (HEAD + '[[operation]]\nfile = "x"\n', "operation 1: has no action; the actions are remove_requirements"),
        (HEAD + '[[operation]]\naction = "create_file"\nfile = "x"\n', "content: is missing"),
        (HEAD, "operation: is missing"),
        (HEAD + 'releases = "0.9"\n' + CREATE, "releases: '0.9' is not a PEP 440 specifier"),
        (HEAD + 'when = { setuptools = ">=x" }\n' + CREATE, "when: is not a PEP 440 specifier"),
        (HEAD + 'devices = ["gpu"]\n' + CREATE, "devices, 0: 'gpu' .*'cuda', 'cpu' or 'empty'"),
        (HEAD + CREATE + 'miss = "maybe"\n', "miss: 'maybe'"),
        (HEAD + CREATE.replace('"x"', '"../x"'), "file: '../x' must be a relative path inside the tree"),
        (HEAD + CREATE.replace('"x"', '"/x"'), "must be a relative path inside the tree"),
        (HEAD + "[parameters.url]\n" + CREATE.replace('"y"', '"{{ulr}}"'), r"\{\{ulr\}\} is used"),
        ('name = "two"\n' + HEAD + CREATE, "calls itself 'two'"),
        ("a = [", "cannot be read"),
        (HEAD + 'path = "p"\n' + CREATE, "path: unknown key"),
        (
            HEAD + '[[operation]]\naction = "run_script"\nfiles = ["a"]\nnames = ["torch"]\nscripts = [{ pth = "s" }]\n',
            r"scripts, 0, pth: unknown key .*path",
        ),
    ],
)  # fmt: skip
def test_slips_of_the_pen_are_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(PatchSetError) as refused:
        one(tmp_path, text)
    error = refused.value
    assert re.search(message, " ".join([error.what, *error.details]))
    assert "one.toml" in error.what


def test_a_folder_that_does_not_exist_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(PatchSetError, match="does not exist"):
        load([tmp_path / "nope"])


def test_a_later_folder_overrides_and_adds(tmp_path: Path) -> None:
    write(tmp_path, {"a/x.toml": HEAD + CREATE, "a/y.toml": HEAD + CREATE})
    write(tmp_path, {"b/y.toml": HEAD + CREATE.replace('"y"', '"mine"'), "b/z.toml": HEAD + CREATE})
    sets = load([tmp_path / "a", tmp_path / "b"])
    assert sorted(sets) == ["x", "y", "z"]
    assert sets["y"].path == str(tmp_path / "b/y.toml")


@pytest.mark.parametrize(
    ("specifier", "release", "expected"),
    [
        (">=0.9", "0.9.2", True),
        (">=0.9,<0.10", "0.9.0.1", True),
        ("<0.7", "0.6.4.post1", True),
        (">=0.9.0", "0.9.3.dev17", True),
        (">=0.10", "0.10.0rc1", True),
        (">=0.10", "0.10.0.dev3+g1234", True),
        ("<0.10", "0.10.0rc1", False),
        ("<0.10", "0.10.0.dev3", False),
        ("==0.9.2", "0.9.2+cpu", True),
        ("", "0.9.3.dev1", True),
    ],
)
def test_releases_meet_specifiers(specifier: str, release: str, expected: bool) -> None:
    assert matches_release(specifier, Version(release)) is expected


def test_sets_are_ordered_by_number_then_by_name(tmp_path: Path) -> None:
    for name, order in [("a", 30), ("b", 10), ("c", 30)]:
        write(tmp_path, {f"{name}.toml": f"order = {order}\n{HEAD}{CREATE}"})
    assert chosen(load([tmp_path])).sets == ("b", "a", "c")


def test_conditions_of_sets_and_operations(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "cuda.toml": HEAD + 'devices = ["cuda"]\n' + CREATE,
            "old.toml": HEAD + 'releases = "<0.9"\n' + CREATE,
            "opt-in.toml": HEAD + "default = false\n" + CREATE,
            "off.toml": HEAD + CREATE,
            "mixed.toml": HEAD
            + "".join(
                CREATE + f"when = {{ {when} }}\n"
                for when in ('numa = false', 'setuptools = "<77.0.3"', 'setuptools = ">=77.0.3"', 'kind = "x"', 'un = true')
            ),
        },
    )  # fmt: skip
    facts = {"numa": False, "setuptools": "79.0.1", "kind": "x"}
    found = chosen(load([tmp_path]), facts=facts, disable=["off"])
    assert [(step.set, step.number) for step in found.steps] == [("mixed", 1), ("mixed", 3), ("mixed", 4)]
    assert {(item.set, item.number): item.reason for item in found.skipped} == {
        ("cuda", None): "for cuda",
        ("old", None): "for releases <0.9",
        ("opt-in", None): "not asked for",
        ("off", None): "disabled",
        ("mixed", 2): "setuptools is 79.0.1, and <77.0.3 is asked for",
        ("mixed", 5): "un is not known",
    }
    assert chosen(load([tmp_path]), enable=["opt-in"]).sets == ("mixed", "off", "opt-in")


def test_unknown_names_are_refused_with_near_ones(tmp_path: Path) -> None:
    sets = one(tmp_path, HEAD + CREATE)
    with pytest.raises(PatchSetError, match=r"'oen' \(did you mean one\?\)"):
        chosen(sets, enable=["oen"])
    with pytest.raises(PatchSetError, match="no patch set 'two'"):
        chosen(sets, disable=["two"])
    with pytest.raises(PatchSetError, match="both enabled and disabled"):
        chosen(sets, enable=["one"], disable=["one"])


def test_a_release_or_a_fact_that_is_no_version(tmp_path: Path) -> None:
    sets = one(tmp_path, HEAD + 'when = { setuptools = ">1" }\n' + CREATE)
    with pytest.raises(SettingsError, match="not a release"):
        chosen(sets, "main")
    with pytest.raises(PatchSetError, match=r"setuptools = 'new' is not a version"):
        chosen(sets, facts={"setuptools": "new"})


def test_parameters_are_filled_in(tmp_path: Path) -> None:
    text = HEAD + '[parameters.url]\ndescription = "u"\n[parameters.b]\ndefault = "B"\n'
    sets = one(tmp_path, text + CREATE.replace('"y"', '"{{url}} {{ b }} ${x}"'))
    (step,) = chosen(sets, facts={"url": "http://m"}).steps
    assert step.operation.content == "http://m B ${x}"  # type: ignore[union-attr]
    with pytest.raises(PatchSetError) as missing:
        chosen(sets)
    assert "parameter url" in missing.value.what
    assert "--parameter url=" in missing.value.next


def test_braces_mean_nothing_without_parameters(tmp_path: Path) -> None:
    (step,) = chosen(one(tmp_path, HEAD + CREATE.replace('"y"', '"{{url}}"'))).steps
    assert step.operation.content == "{{url}}"  # type: ignore[union-attr]


def test_a_selection_is_complete_and_its_digest_is_of_what_it_does(tmp_path: Path) -> None:
    plain = chosen(one(tmp_path, HEAD + CREATE))
    same = chosen(
        one(tmp_path, HEAD.replace("a set", "reworded") + 'releases = ">0.8"\n' + CREATE + 'comment = "c"\n')
    )
    other = chosen(one(tmp_path, HEAD + CREATE.replace('"y"', '"z"')))
    assert digest(plain) == digest(same) != digest(other)
    assert PatchSelection.model_validate_json(plain.model_dump_json()) == plain


def test_a_set_of_the_persons_own_adds_to_what_is_read(tmp_path: Path) -> None:
    diff = "--- a/csrc/a.cu\n+++ b/csrc/a.cu\n@@ -1 +1 @@\n-a\n+b\n"
    sets = one(tmp_path, HEAD + CREATE + f"[[operation]]\naction = 'unified_diff'\ndiff = '''\n{diff}'''\n")
    assert set(patterns_of(sets)) - set(READ_PATTERNS) == {"x", "csrc/a.cu"}
