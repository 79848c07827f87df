"""Real pip, real uv and pypi-simple install from an index: served by `index serve`, by nginx, and by an object store."""

from __future__ import annotations

import hashlib
import tomllib
from pathlib import Path

import pytest
from pypi_simple import ProjectPage, PyPISimple
from site_helpers import REASON, SITES
from web_helpers import Clients, Site, installed, site_packages

pytestmark = pytest.mark.corpus  # a minute


@pytest.fixture(params=SITES)
def site(request: pytest.FixtureRequest, sites: dict[str, Site]) -> Site:
    return sites[request.param]


def sha256_of(wheels: Path, name: str) -> str:
    (found,) = wheels.glob(f"*/{name}")
    return hashlib.sha256(found.read_bytes()).hexdigest()


def test_pip_installs_with_hashes(site: Site, clients: Clients, wheels: Path, tmp_path: Path) -> None:
    pins = tmp_path / "requirements.txt"
    names = [
        ("demo-vllm", "demo_vllm-1.0+cu130-py3-none-any.whl"),
        ("demo-dep", "demo_dep-1.0+cu130-py3-none-any.whl"),
    ]
    pins.write_text("".join(f"{n}==1.0+cu130 --hash=sha256:{sha256_of(wheels, f)}\n" for n, f in names))
    done = clients.pip(
        "install",
        "--require-hashes",
        "-r",
        pins,
        "--index-url",
        site.index("cu130"),
        "--target",
        tmp_path / "to",
    )
    assert done.returncode == 0, done.stderr
    assert installed(tmp_path / "to") == {"demo-vllm": "1.0+cu130", "demo-dep": "1.0+cu130"}
    pins.write_text(f"demo-dep==1.0+cu130 --hash=sha256:{'0' * 64}\n")
    wrong = clients.pip(
        "install", "--require-hashes", "-r", pins, "--index-url", site.index("cu130"), "--dry-run"
    )
    assert wrong.returncode != 0
    assert "hash" in wrong.stderr.lower()


def test_pip_takes_neither_yanked_nor_foreign_for_a_range_and_reads_sidecars(
    site: Site, clients: Clients, tmp_path: Path
) -> None:
    before = len(site.log())
    done = clients.pip(
        "download", "demo-vllm>=1.0", "--index-url", site.index("cu130"), "-d", tmp_path / "to"
    )
    assert done.returncode == 0, done.stderr
    names = ["demo_dep-1.1+cu130-py3-none-any.whl", "demo_vllm-1.1+cu130-py3-none-any.whl"]
    assert sorted(p.name for p in (tmp_path / "to").iterdir()) == names
    assert REASON not in done.stdout + done.stderr
    asked = site.log()[before:]
    assert sum(".whl.metadata " in line for line in asked) == 2, asked
    assert sum(".whl " in line for line in asked) == 2, asked


def test_pip_installs_a_yanked_one_that_is_pinned_and_says_why(
    site: Site, clients: Clients, tmp_path: Path
) -> None:
    done = clients.pip(
        "install", "demo-vllm==1.2+cpu", "--index-url", site.index("cpu"), "--target", tmp_path / "to"
    )
    assert done.returncode == 0, done.stderr
    assert installed(tmp_path / "to") == {"demo-vllm": "1.2+cpu"}
    assert REASON in done.stderr


def test_pip_leaves_out_what_was_uploaded_later(site: Site, clients: Clients, tmp_path: Path) -> None:
    def run(day: str) -> int:
        return clients.pip(
            "download", "demo-vllm", "--no-deps", "--index-url", site.index("cpu"), "-d", tmp_path / day,
            "--uploaded-prior-to", day,
        ).returncode  # fmt: skip

    assert run("2026-01-01T00:00:00Z") != 0
    if site.json:
        assert run("2026-02-01T00:00:00Z") == 0
        (found,) = (tmp_path / "2026-02-01T00:00:00Z").iterdir()
        assert found.name.startswith("demo_vllm-1.0+cpu")


def test_uv_installs(site: Site, clients: Clients, tmp_path: Path) -> None:
    index = ("--index-url", site.index("cu130"), "--target", tmp_path / "to")
    before = len(site.log())
    done = clients.uv("pip", "install", "demo-vllm>=1", *index)
    assert done.returncode == 0, done.stderr
    assert installed(tmp_path / "to") == {"demo-vllm": "1.1+cu130", "demo-dep": "1.1+cu130"}
    assert REASON not in done.stderr
    asked = site.log()[before:]
    assert sum(".whl.metadata " in line for line in asked) == 2, asked
    pinned = clients.uv("pip", "install", "demo-vllm==1.2+cu130", *index)
    assert pinned.returncode == 0, pinned.stderr
    assert installed(tmp_path / "to")["demo-vllm"] == "1.2+cu130"
    assert "yanked" in pinned.stderr
    assert REASON in pinned.stderr
    foreign = clients.uv("pip", "install", "demo-vllm==1.3+cu130", *index)
    assert foreign.returncode != 0
    assert ">=4.0" in foreign.stderr


def test_uv_compiles_hashes_from_sidecars_alone(
    site: Site, clients: Clients, wheels: Path, tmp_path: Path
) -> None:
    (tmp_path / "in.txt").write_text("demo-vllm>=1.0\n")
    index = ("--index-url", site.index("cu130"), "--no-header")
    before = len(site.log())
    done = clients.uv("pip", "compile", tmp_path / "in.txt", "--generate-hashes", *index)
    assert done.returncode == 0, done.stderr
    for name in ("demo_vllm", "demo_dep"):
        assert f"{name.replace('_', '-')}==1.1+cu130" in done.stdout
        assert f"--hash=sha256:{sha256_of(wheels, f'{name}-1.1+cu130-py3-none-any.whl')}" in done.stdout
    asked = site.log()[before:]
    assert any(".whl.metadata " in line for line in asked)
    assert not any(".whl " in line for line in asked), asked
    (tmp_path / "pins.txt").write_text(done.stdout)
    install = ("pip", "install", "--require-hashes", "-r", tmp_path / "pins.txt", "--target", tmp_path / "to")
    done = clients.uv(*install, "--index-url", site.index("cu130"))
    assert done.returncode == 0, done.stderr
    assert installed(tmp_path / "to") == {"demo-vllm": "1.1+cu130", "demo-dep": "1.1+cu130"}

    def until(day: str) -> str:
        return clients.uv("pip", "compile", tmp_path / "in.txt", "--exclude-newer", day, *index).stdout

    assert "demo-vllm" not in until("2026-01-01T00:00:00Z")
    if site.json:
        assert "demo-vllm==1.0+cu130" in until("2026-02-01T00:00:00Z")
        assert "demo-vllm==1.1+cu130" in until("2026-04-01T00:00:00Z")


PROJECT = """
[project]
name = "team"
version = "0"
requires-python = ">=3.11,<4"
dependencies = ["demo-vllm>=1.0"]

[tool.uv]
package = false

[tool.uv.sources]
demo-vllm = { index = "internal" }
demo-dep = { index = "internal" }

[[tool.uv.index]]
name = "internal"
url = "%s"
explicit = true

[[tool.uv.index]]
name = "nothing-else"
url = "file:///nowhere"
default = true
"""


def test_uv_locks_and_syncs_a_project(site: Site, clients: Clients, wheels: Path, tmp_path: Path) -> None:
    project = tmp_path / "project"
    project.mkdir()
    # What a dependency requires comes from an explicit index only where the project itself names it.
    text = PROJECT.replace('"demo-vllm>=1.0"', '"demo-vllm>=1.0", "demo-dep"') % site.index("cu130")
    (project / "pyproject.toml").write_text(text)
    done = clients.uv("lock", cwd=project)
    assert done.returncode == 0, done.stderr
    locked = {one["name"]: one for one in tomllib.loads((project / "uv.lock").read_text())["package"]}
    assert locked["demo-vllm"]["version"] == "1.1+cu130"
    (wheel,) = locked["demo-vllm"]["wheels"]
    name = "demo_vllm-1.1+cu130-py3-none-any.whl"
    assert wheel["hash"] == f"sha256:{sha256_of(wheels, name)}"
    assert wheel["url"].startswith("http://")
    assert "%2Bcu130" in wheel["url"]
    if site.json:
        assert wheel["size"] == next(wheels.glob(f"*/{name}")).stat().st_size
        assert wheel["upload-time"].startswith("2026-03-10T00:00:00")
    done = clients.uv("sync", "--locked", cwd=project)
    assert done.returncode == 0, done.stderr
    assert installed(site_packages(project / ".venv")) == {"demo-vllm": "1.1+cu130", "demo-dep": "1.1+cu130"}
    assert clients.uv("lock", "--check", cwd=project).returncode == 0


VARIANTS = """
[project]
name = "team"
version = "0"
requires-python = ">=3.11,<4"

[project.optional-dependencies]
cpu = ["demo-dep==1.1"]
cu130 = ["demo-dep==1.1"]

[tool.uv]
package = false
conflicts = [[{ extra = "cpu" }, { extra = "cu130" }]]

[tool.uv.sources]
demo-dep = [{ index = "cpu", extra = "cpu" }, { index = "cu130", extra = "cu130" }]
"""


def test_uv_keeps_two_variants_of_one_version_apart(site: Site, clients: Clients, tmp_path: Path) -> None:
    project = tmp_path / "project"
    project.mkdir()
    indexes = "".join(
        f'\n[[tool.uv.index]]\nname = "{one}"\nurl = "{site.index(one)}"\nexplicit = true\n'
        for one in ("cpu", "cu130")
    )
    (project / "pyproject.toml").write_text(VARIANTS + indexes)
    for variant in ("cpu", "cu130"):
        done = clients.uv("sync", "--extra", variant, cwd=project)
        assert done.returncode == 0, done.stderr
        assert installed(site_packages(project / ".venv")) == {"demo-dep": f"1.1+{variant}"}


def test_pypi_simple_reads_html_and_json_alike(sites: dict[str, Site]) -> None:
    with PyPISimple(sites["serve"].index("cu130")) as client:
        client.s.trust_env = False
        assert client.get_index_page().projects == ["demo-dep", "demo-vllm"]
        as_html = client.get_project_page("demo-vllm", accept="text/html")
        as_json = client.get_project_page("demo-vllm", accept="application/vnd.pypi.simple.v1+json")
        (first, *_) = as_json.packages
        assert client.get_package_metadata(first).startswith("Metadata-Version: 2.1\nName: demo-vllm\n")
    assert [p.yanked_reason for p in as_html.packages if p.is_yanked] == [REASON]
    assert len(as_html.packages) == 4
    assert told(as_html) == told(as_json)


def told(page: ProjectPage) -> list[object]:
    return [
        (p.filename, p.url.partition("#")[0], p.version, p.package_type, p.digests, p.requires_python, p.is_yanked,
         p.yanked_reason, p.has_metadata, p.metadata_digests, p.metadata_url)
        for p in page.packages
    ]  # fmt: skip
