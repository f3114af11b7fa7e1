"""Wheel and sdist build, hold what they must, install, and say their version."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
import release
from packaging.specifiers import SpecifierSet

from gce_backend import __version__

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
NOT_CODE = {
    *("py.typed", "config.proto", "config_pb2.pyi", "access.proto", "access_pb2.pyi"),
    "install.sh",
}
"""What a wheel must hold beside Python files."""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with an sdist, and a wheel built from that sdist."""
    where = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(where), str(ROOT)],
        check=True,
        capture_output=True,
        text=True,
    )
    return where


def test_a_wheel_that_is_built_twice_has_the_same_bytes(tmp_path: Path) -> None:
    """Elsewhere, from files of another day, with other hashes: anybody can check a release."""
    made = []
    for number, place in enumerate(("here", "elsewhere")):
        source = tmp_path / place / "source"
        shutil.copytree(ROOT, source, ignore=release._not_source)
        for path in source.rglob("*"):
            os.utime(path, times=(1_600_000_000 + number * 86_400,) * 2)
        environment = {"SOURCE_DATE_EPOCH": "1700000000", "PYTHONHASHSEED": str(number)}
        subprocess.run(
            [sys.executable, "-m", "build", "--wheel", "--no-isolation", str(source)],
            env={**os.environ, **environment},
            check=True,
            capture_output=True,
        )
        made.append(_wheel(source / "dist").read_bytes())
    assert made[0] == made[1]


def _wheel(built: Path) -> Path:
    (found,) = built.glob("*.whl")
    return found


def test_the_wheel_holds_the_whole_package_and_nothing_else(built: Path) -> None:
    """Every file of src/gce_backend that belongs to it; no tests, no tools."""
    with zipfile.ZipFile(_wheel(built)) as wheel:
        names = {name for name in wheel.namelist() if ".dist-info/" not in name}
    source = ROOT / "src"
    wanted = {
        str(path.relative_to(source))
        for path in (source / "gce_backend").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert names == wanted
    assert {Path(name).name for name in names} >= NOT_CODE


def test_the_sdist_builds_without_the_repository(built: Path) -> None:
    """It holds what its build needs; the wheel above was built from it."""
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"pyproject.toml", "README.md", "src/gce_backend/daemon/daemon.py"} <= names
    assert _wheel(built).name.startswith(f"gce_backend-{PROJECT['version']}-py3-none-any")


def test_the_oldest_python_is_one_that_every_locked_library_takes() -> None:
    """Otherwise whoever has it gets pip's error in place of ours; all pages name the same one."""
    oldest = PROJECT["requires-python"].removeprefix(">=")
    locked = re.findall(r"^([\w.-]+)==", (ROOT / "requirements.lock").read_text(), re.MULTILINE)
    assert locked
    for name in locked:
        demanded = metadata.metadata(name)["Requires-Python"] or ""
        assert SpecifierSet(demanded).contains(oldest), f"{name} needs Python {demanded}"
    preflight = (ROOT / "scripts" / "preflight.py").read_text()
    assert f"sys.version_info < ({oldest.replace('.', ', ')})" in preflight
    named = ["README.md", "CONTRIBUTING.md", "Makefile", "docs/index.md", "docs/deploy.md"]
    for text in [preflight, *((ROOT / name).read_text() for name in named)]:
        assert set(re.findall(r"Python (\d[\d.]*\d) or", text)) == {oldest}


def test_an_installed_wheel_runs_and_says_its_version(built: Path, tmp_path: Path) -> None:
    """In an environment of its own that sees this one's libraries, but not this checkout."""
    venv.create(tmp_path / "venv", with_pip=False)
    python = tmp_path / "venv" / "bin" / "python"
    install = ["-m", "pip", "--python", str(python), "install", "--no-deps", "--no-index"]
    subprocess.run(
        [sys.executable, *install, "--disable-pip-version-check", str(_wheel(built))],
        check=True,
        capture_output=True,
        text=True,
    )
    (packages,) = (tmp_path / "venv" / "lib").glob("python*/site-packages")
    libraries = next(path for path in map(Path, sys.path) if path.name == "site-packages")
    (packages / "libraries.pth").write_text(f"import sys; sys.path.append({str(libraries)!r})\n")
    command = tmp_path / "venv" / "bin" / "gce-backend"
    said = subprocess.run(
        [command, "--version"], check=True, capture_output=True, text=True, cwd=tmp_path
    )
    assert said.stdout.strip() == f"gce-backend, version {PROJECT['version']}"
    assert __version__ == PROJECT["version"]
    where = subprocess.run(
        [python, "-c", "import gce_backend; print(gce_backend.__file__)"],
        check=True,
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert where.stdout.startswith(str(packages))
