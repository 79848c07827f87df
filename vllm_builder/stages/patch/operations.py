"""The operations that a patch set can hold, as typed values.

An operation says *what* has to be true of the tree afterwards; the modules beside this one know how. Each
model is exactly what one ``[[operation]]`` table of a ``patches/*.toml`` may contain.
"""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Annotated, Any, Literal, get_args

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.utils import canonicalize_name
from pydantic import AfterValidator, Field, JsonValue, field_validator, model_validator

from vllm_builder.model import Free, Model
from vllm_builder.stages.compile.model import Device

Miss = Literal["required", "optional", "already-done"]
"""What it means that an operation finds nothing to act on:

``required``: an error. ``optional``: fine, the operation is reported as skipped. ``already-done``: the thing
to be changed is not there, which is what was wanted; only a missing *file* or *table* is still an error.
"""


def _tree_path(value: str) -> str:
    path = PurePosixPath(value)
    if not value or path.is_absolute() or ".." in path.parts or "\\" in value or "\0" in value:
        raise ValueError("must be a relative path inside the tree, with forward slashes and without '..'")
    return value


def _specifier(value: str) -> str:
    try:
        SpecifierSet(value)
    except InvalidSpecifier as error:
        raise ValueError(f"is not a PEP 440 specifier such as '>=0.9,<0.11': {error}") from None
    return value


def _dotted(value: str) -> str:
    from vllm_builder.stages.patch.toml_keys import split_key

    split_key(value)
    return value


def _when(value: dict[str, bool | str]) -> dict[str, bool | str]:
    for text in value.values():
        if isinstance(text, str) and text[:1] in "<>=!~" and text:
            _specifier(text)
    return value


TreePath = Annotated[str, AfterValidator(_tree_path)]
"""A path or glob pattern relative to the tree's root: ``requirements/**/*.txt``."""
Specifier = Annotated[str, AfterValidator(_specifier)]
"""A PEP 440 specifier set: ``>=0.9,<0.11``."""
DottedKey = Annotated[str, AfterValidator(_dotted)]
"""A TOML key as TOML itself spells it: ``build-system.requires``, ``tool.uv."a.b"``."""
When = Annotated[dict[str, bool | str], AfterValidator(_when)]
"""Facts that must hold: a bool or a text to equal, or a specifier (``<77.0.3``) that a version must meet."""
Names = Annotated[tuple[str, ...], Field(min_length=1)]


class Conditions(Model):
    """For what a set or an operation is meant. All conditions that are given must hold."""

    releases: Specifier = ""
    devices: tuple[Device, ...] = ()
    """Empty: all."""
    when: When = Field(default={})


class _Operation(Conditions):
    miss: Miss = "required"
    comment: Free[str] = ""
    """Why the operation exists, for a person."""
    note: Free[str] = ""
    """What a person should be told when the operation changed something."""


class _Requirements(_Operation):
    names: Names
    """Distribution names; compared in canonical form, never as a part of another name."""

    @field_validator("names")
    @classmethod
    def _canonical(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(sorted({canonicalize_name(name, validate=True) for name in value}))


class RemoveRequirements(_Requirements):
    """Remove requirements from requirement files and from the files that these include."""

    action: Literal["remove_requirements"]
    files: Annotated[tuple[TreePath, ...], Field(min_length=1)]


class RemoveTomlRequirements(_Requirements):
    """Remove requirements from TOML arrays of requirement strings."""

    action: Literal["remove_toml_requirements"]
    file: TreePath = "pyproject.toml"
    keys: Annotated[tuple[DottedKey, ...], Field(min_length=1)]


class RemoveTomlItems(_Operation):
    """Remove the strings of a TOML array that match a shell-style pattern (case counts)."""

    action: Literal["remove_toml_items"]
    file: TreePath = "pyproject.toml"
    key: DottedKey
    items: Names
    if_key: DottedKey | None = None


class SetTomlKey(_Operation):
    """Set a key of a TOML file.

    With ``create = false`` only a key that is there is changed; ``if_type`` narrows that to a key which has
    a value of that type, and ``if_key`` to a file that has that other key.
    """

    action: Literal["set_toml_key"]
    file: TreePath = "pyproject.toml"
    key: DottedKey
    value: JsonValue
    create: bool = True
    if_type: Literal["string", "table", "array", "boolean", "number"] | None = None
    if_key: DottedKey | None = None

    @field_validator("value")
    @classmethod
    def _no_null(cls, value: JsonValue) -> JsonValue:
        if value is None:
            raise ValueError("TOML has no null")
        return value


class RenameTomlKey(_Operation):
    """Give a key of a TOML file another name in the same table."""

    action: Literal["rename_toml_key"]
    file: TreePath = "pyproject.toml"
    key: DottedKey
    to: Annotated[str, Field(min_length=1)]
    """The new last part of the key."""


class DeleteTomlKey(_Operation):
    action: Literal["delete_toml_key"]
    file: TreePath = "pyproject.toml"
    key: DottedKey


class SetCfgKey(_Operation):
    """Set a key in an INI-style file such as setup.cfg, which is created where there is none."""

    action: Literal["set_cfg_key"]
    file: TreePath = "setup.cfg"
    section: Annotated[str, Field(min_length=1)]
    key: Annotated[str, Field(min_length=1)]
    value: str
    create: bool = True


class SetCmakeVariable(_Operation):
    """Give ``set(NAME ...)`` and ``option(NAME ...)`` another value.

    ``where`` narrows it to invocations whose present value is one of these.
    """

    action: Literal["set_cmake_variable"]
    files: Annotated[tuple[TreePath, ...], Field(min_length=1)]
    name: Annotated[str, Field(min_length=1)]
    value: str | tuple[str, ...]
    where: tuple[str, ...] = ()


class RemoveCmakeArgument(_Operation):
    """Remove one argument of CMake commands.

    ``command`` and the leading ``arguments`` (shell-style patterns) say which invocations are meant.
    """

    action: Literal["remove_cmake_argument"]
    files: Annotated[tuple[TreePath, ...], Field(min_length=1)]
    command: Annotated[str, Field(min_length=1)]
    arguments: tuple[str, ...] = ()
    remove: Annotated[str, Field(min_length=1)]


class RepointFetchcontent(_Operation):
    """Let FetchContent take a folder of the tree in place of what it would download.

    ``name`` is a shell-style pattern; ``{name}`` in ``source_dir`` stands for the name as CMake spells it.
    ``revision`` narrows it to calls whose GIT_TAG is written so.
    """

    action: Literal["repoint_fetchcontent"]
    files: Annotated[tuple[TreePath, ...], Field(min_length=1)] = ("CMakeLists.txt", "cmake/**/*.cmake")
    name: Annotated[str, Field(min_length=1)]
    source_dir: Annotated[str, Field(min_length=1)]
    revision: str | None = None


class InsertCmakeCommand(_Operation):
    """Insert CMake code behind every invocation of a command.

    ``command`` and the leading ``arguments`` (shell-style patterns) say behind which. Where the code stands
    there already, nothing is inserted.
    """

    action: Literal["insert_cmake_command"]
    files: Annotated[tuple[TreePath, ...], Field(min_length=1)]
    command: Annotated[str, Field(min_length=1)]
    arguments: tuple[str, ...] = ()
    code: Annotated[str, Field(min_length=1)]


class ReplaceCxxNames(_Operation):
    """Replace qualified names in C++ and CUDA sources, and include what the new names need.

    Comments and string literals are left alone. ``names`` maps a name as the sources spell it to what takes
    its place; ``headers`` are included behind the first ``#include`` that matches ``after``.
    """

    action: Literal["replace_cxx_names"]
    files: Annotated[tuple[TreePath, ...], Field(min_length=1)]
    names: Annotated[dict[str, str], Field(min_length=1)]
    headers: tuple[str, ...] = ()
    after: str = "*"
    """Shell-style pattern for the header behind which the new ones are included: ``cub/*``."""


class LeaveOutExtension(_Operation):
    """Do not build an extension module that setup.py lists.

    What CMake installs beside the module (Python files of the same component) goes to another component, so
    that the wheel keeps it.
    """

    action: Literal["leave_out_extension"]
    file: TreePath = "setup.py"
    name: Annotated[str, Field(min_length=1)]
    """The module's last part, which is CMake's target: ``_vllm_fa3_C``."""
    cmake: tuple[TreePath, ...] = ("CMakeLists.txt", "cmake/**/*.cmake")
    component: str = ""
    """The component that takes over the other files; empty: they are left out too."""


class CreateFile(_Operation):
    """Create a file. One that exists with another content is left alone and is an error."""

    action: Literal["create_file"]
    file: TreePath
    content: str
    overwrite: bool = False


class ReplaceText(_Operation):
    """Replace an exact text that must occur ``count`` times."""

    action: Literal["replace_text"]
    file: TreePath
    find: Annotated[str, Field(min_length=1)]
    replace: str
    count: Annotated[int, Field(ge=1)] = 1


class UnifiedDiff(_Operation):
    """Apply a unified diff, context strictly as it stands. The last way out."""

    action: Literal["unified_diff"]
    diff: str

    @field_validator("diff")
    @classmethod
    def _readable(cls, value: str) -> str:
        from vllm_builder.stages.patch.unified import parse

        parse(value)
        return value


class Script(Model):
    path: TreePath
    arguments: tuple[str, ...] = ()


class RunScript(_Operation):
    """Run a Python script of the tree in a copy of ``files``, and take over only what is allowed.

    Of what the script deletes, requirements called ``names`` in requirement files and in the arrays
    ``toml_keys`` are really deleted; every other line is put back and reported.
    """

    action: Literal["run_script"]
    scripts: Annotated[tuple[Script, ...], Field(min_length=1)]
    """The first that exists is run."""
    files: Annotated[tuple[TreePath, ...], Field(min_length=1)]
    toml_keys: tuple[DottedKey, ...] = ()
    names: Names
    timeout: Annotated[float, Field(gt=0)] = 60.0
    """Seconds."""

    @field_validator("names")
    @classmethod
    def _canonical(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(sorted({canonicalize_name(name, validate=True) for name in value}))


Operation = Annotated[
    RemoveRequirements
    | RemoveTomlRequirements
    | RemoveTomlItems
    | SetTomlKey
    | RenameTomlKey
    | DeleteTomlKey
    | SetCfgKey
    | SetCmakeVariable
    | RemoveCmakeArgument
    | RepointFetchcontent
    | InsertCmakeCommand
    | ReplaceCxxNames
    | LeaveOutExtension
    | CreateFile
    | ReplaceText
    | UnifiedDiff
    | RunScript,
    Field(discriminator="action"),
]

ACTIONS: dict[str, type[_Operation]] = {
    get_args(model.model_fields["action"].annotation)[0]: model for model in get_args(get_args(Operation)[0])
}
"""Action name -> model."""


def paths_of(operation: Any) -> tuple[str, ...]:
    """Paths and patterns of the files that an operation reads."""
    paths = [*getattr(operation, "files", ()), *getattr(operation, "cmake", ())]
    if (file := getattr(operation, "file", None)) is not None:
        paths.append(file)
    paths.extend(script.path for script in getattr(operation, "scripts", ()))
    if isinstance(operation, UnifiedDiff):
        from vllm_builder.stages.patch.unified import parse

        paths.extend(part.path for part in parse(operation.diff))
    return tuple(paths)


class _Parameter(Model):
    description: str = ""
    default: str | None = None


class PatchSet(Conditions):
    """One file of ``patches/``: operations that belong together, in order."""

    name: str
    description: str
    default: bool = True
    """False: only with ``enable``."""
    order: int = 100
    """Sets are applied by ascending order, then by name."""
    parameters: dict[str, _Parameter] = Field(default={})
    """Values that the person gives (as facts of the same name); ``{{name}}`` stands for them in texts."""
    operation: Annotated[tuple[Operation, ...], Field(min_length=1)]
    path: str = ""
    """The file that the set was read from."""

    @model_validator(mode="after")
    def _braces_are_known(self) -> PatchSet:
        from vllm_builder.stages.patch.parameters import unknown_references

        if self.parameters and (unknown := unknown_references(self)):
            raise ValueError(f"{{{{{unknown[0]}}}}} is used, but is not a parameter of this set")
        return self


class Step(Model):
    """One operation that applies, complete, with the conditions that led to it left out."""

    set: Free[str]
    number: Free[int]
    """Its place in the set's file, from 1."""
    operation: Operation


class Skipped(Model):
    set: str
    number: int | None
    """None: the whole set."""
    reason: str


class PatchSelection(Model):
    """What is to be applied, in order. Its digest covers what the operations do, not what they are called."""

    steps: tuple[Step, ...] = ()
    sets: Free[tuple[str, ...]] = ()
    """Names of the sets that take part, in order."""
    skipped: Free[tuple[Skipped, ...]] = ()
