"""Releases: cuts a version out of the changelog, and builds and checks what is published.

    python scripts/release.py cut 1.0.0    moves "Unreleased" of CHANGELOG.md under the version, and
                                           writes the version into pyproject.toml
    python scripts/release.py check        says what speaks against a release, before the tests
    python scripts/release.py build        makes dist/: wheel, sdist, SBOM, SHA256SUMS

`build` makes everything twice and compares the bytes. The time of all files is that of the last
commit (`SOURCE_DATE_EPOCH`), so that anybody who builds the same commit gets the same wheel.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import zipfile
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).parents[1]
CHANGELOG = "CHANGELOG.md"
UNRELEASED = "## [Unreleased]"
_VERSION = re.compile(r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(-(rc|beta|alpha)\.[1-9]\d*)?")
_HEADING = re.compile(r"^## \[([^\]]+)\]", re.MULTILINE)
_OF_PROJECT = re.compile(r'^version = "([^"]*)"$', re.MULTILINE)


class ReleaseError(Exception):
    """Something that speaks against the release; says what."""


def order(version: str) -> tuple[tuple[int, ...], bool, tuple[str, int]]:
    """By what versions are sorted, as semantic versioning says.

    Raises:
        ReleaseError: it is no such version.
    """
    if not _VERSION.fullmatch(version):
        raise ReleaseError(
            f"{version!r} is not a version of semantic versioning: 1.2.3, 1.2.3-rc.1"
        )
    numbers, _, stage = version.partition("-")
    word, _, count = stage.partition(".")
    return tuple(map(int, numbers.split("."))), not stage, (word, int(count or 0))


def cut_changelog(text: str, version: str, day: str) -> str:
    """The changelog with what is unreleased under a version.

    Args:
        day: the day of the release, e.g. `2026-12-01`.

    Raises:
        ReleaseError: nothing is unreleased, or the version is not above the last one.
    """
    new = order(version)
    head, found, rest = text.partition(f"{UNRELEASED}\n")
    if not found:
        raise ReleaseError(f"{CHANGELOG} has no section {UNRELEASED}")
    after = _HEADING.search(rest)
    body = rest[: after.start()] if after else rest
    if not re.search(r"^- ", body, re.MULTILINE):
        raise ReleaseError(f"nothing is unreleased in {CHANGELOG}")
    released = _HEADING.findall(rest)
    if released and order(released[0]) >= new:
        raise ReleaseError(f"{version} is not above {released[0]}, the last release")
    return f"{head}{UNRELEASED}\n\n## [{version}] - {day}\n{rest}"


def with_version(project: str, version: str) -> str:
    """pyproject.toml with another version: the one place that says it."""
    text, count = _OF_PROJECT.subn(f'version = "{version}"', project)
    if count != 1:
        raise ReleaseError(f"pyproject.toml says the version {count} times")
    return text


def check_released(changelog: str, version: str) -> None:
    """Checks that the newest release of the changelog is this version.

    Raises:
        ReleaseError: it is another one, or something is unreleased.
    """
    versions = _HEADING.findall(changelog)
    if versions[:1] != ["Unreleased"] or versions[1:2] != [version]:
        raise ReleaseError(
            f"the newest release of {CHANGELOG} is {versions[1:2] or 'none'}, not {version}: "
            f"run `make release-cut VERSION={version}` and commit"
        )
    body = changelog.partition(UNRELEASED)[2].partition(f"## [{version}]")[0]
    if re.search(r"^- ", body, re.MULTILINE):
        raise ReleaseError(
            f"{CHANGELOG} has unreleased lines: move them under a version above {version} with "
            "`make release-cut VERSION=...` and commit, or try it with `make release DRAFT=1`"
        )


def check_wheel(wheel: Path, version: str, epoch: int) -> None:
    """Checks a wheel: its version, the time of its files, nothing but the package in it.

    Raises:
        ReleaseError: something is wrong with it.
    """
    if wheel.name != f"gce_backend-{version}-py3-none-any.whl":
        raise ReleaseError(f"{wheel.name} is not of version {version}")
    time = datetime.fromtimestamp(epoch, UTC).timetuple()[:5]
    with zipfile.ZipFile(wheel) as archive:
        if archive.testzip() is not None:
            raise ReleaseError(f"{wheel.name} is damaged")
        for member in archive.infolist():
            if not member.filename.startswith(
                ("gce_backend/", f"gce_backend-{version}.dist-info/")
            ):
                raise ReleaseError(f"{wheel.name} holds {member.filename}")
            if member.date_time[:5] != time:
                raise ReleaseError(f"{member.filename} in {wheel.name} has a time of its own")


def check_sbom(sbom: Path, lock: str, version: str) -> int:
    """Checks that an SBOM names each locked package with its version; returns their number.

    Raises:
        ReleaseError: it lacks one, or names another product.
    """
    document = json.loads(sbom.read_text())
    about = document["metadata"]["component"]
    if document["bomFormat"] != "CycloneDX" or about.get("version") != version:
        raise ReleaseError(f"{sbom.name} is not about version {version}")
    named = {(one["name"].lower(), one["version"]) for one in document["components"]}
    locked = {
        (name.lower(), pinned)
        for name, pinned in re.findall(r"^([A-Za-z0-9._-]+)==(\S+)", lock, re.MULTILINE)
    }
    if lacking := sorted(locked - named):
        raise ReleaseError(f"{sbom.name} lacks {lacking}")
    return len(locked)


def _run(*command: str, **environment: str) -> str:
    done = subprocess.run(  # noqa: S603 -- our own words
        command,
        cwd=ROOT,
        env={**os.environ, **environment},
        check=False,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise ReleaseError(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")
    return done.stdout.strip()


def _make(where: Path, source: Path, version: str, epoch: str) -> None:
    """Builds sdist, wheel and SBOM once."""
    fixed = {"SOURCE_DATE_EPOCH": epoch, "PYTHONHASHSEED": "0", "TZ": "UTC"}
    _run(
        *(sys.executable, "-m", "build", "--no-isolation", "--outdir", str(where), str(source)),
        **fixed,
    )
    for sdist in where.glob("*.tar.gz"):
        _normalize(sdist, int(epoch))
    sbom = where / f"gce-backend-{version}.cdx.json"
    _run(
        *(sys.executable, "-m", "cyclonedx_py", "requirements", "requirements.lock"),
        *("--pyproject", "pyproject.toml", "--mc-type", "application", "--output-reproducible"),
        *("--of", "JSON", "--validate", "-o", str(sbom)),
        **fixed,
    )


def _normalize(sdist: Path, epoch: int) -> None:
    """Writes an sdist anew, with times and owners that do not depend on who builds it."""
    with tarfile.open(sdist) as old:
        members = sorted(old.getmembers(), key=lambda member: member.name)
        contents = [old.extractfile(member) if member.isfile() else None for member in members]
        with (
            sdist.with_suffix(".new").open("wb") as file,
            gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=epoch) as packed,
            tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as new,
        ):
            for member, content in zip(members, contents, strict=True):
                member.mtime, member.uid, member.gid = epoch, 0, 0
                member.uname = member.gname = ""
                member.mode = 0o755 if member.mode & 0o100 else 0o644
                member.pax_headers = {}
                new.addfile(member, content)
    sdist.with_suffix(".new").replace(sdist)


def _hashes(where: Path) -> dict[str, str]:
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(where.iterdir())
    }


def check() -> str:
    """Checks that this commit can be released, apart from its tests; returns its version.

    Raises:
        ReleaseError: something speaks against the release.
    """
    if changes := _run("git", "status", "--porcelain"):
        raise ReleaseError(f"there are changes that are not committed:\n{changes}")
    version = _version()
    check_released((ROOT / CHANGELOG).read_text(), version)
    return version


def _version() -> str:
    version: str = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    order(version)
    return version


def build(*, draft: bool) -> None:
    """Makes and checks dist/.

    Args:
        draft: whether the tree may have changes, and the changelog unreleased lines.

    Raises:
        ReleaseError: something speaks against the release.
    """
    version = _version() if draft else check()
    epoch = _run("git", "log", "-1", "--format=%ct")
    with tempfile.TemporaryDirectory() as scratch:
        made = []
        for name in ("first", "second"):
            where, source = Path(scratch, name, "dist"), Path(scratch, name, "source")
            shutil.copytree(ROOT, source, ignore=_not_source)
            _make(where, source, version, epoch)
            made.append(_hashes(where))
        if made[0] != made[1]:
            raise ReleaseError(f"two builds of one commit differ: {made[0]}, {made[1]}")
        (wheel,) = where.glob("*.whl")
        check_wheel(wheel, version, int(epoch))
        (sbom,) = where.glob("*.cdx.json")
        packages = check_sbom(sbom, (ROOT / "requirements.lock").read_text(), version)
        sums = "".join(f"{digest}  {name}\n" for name, digest in made[0].items())
        (where / "SHA256SUMS").write_text(sums)
        shutil.rmtree(ROOT / "dist", ignore_errors=True)
        shutil.copytree(where, ROOT / "dist")
    sys.stdout.write(
        f"dist/ holds gce-backend {version}, made twice with the same bytes; the SBOM names "
        f"{packages} packages.\n{sums}"
    )


def _not_source(folder: str, names: list[str]) -> set[str]:
    """What is not copied for a build."""
    top = {"dist", "build", "site", "var", "mutants"} if Path(folder) == ROOT else set()
    hidden = {name for name in names if name.startswith(".") or name == "__pycache__"}
    return hidden | (top & set(names)) | {name for name in names if name.endswith(".egg-info")}


def cut(version: str) -> None:
    """Writes a version into the changelog and pyproject.toml.

    Raises:
        ReleaseError: it cannot be released.
    """
    day = f"{datetime.now(UTC):%Y-%m-%d}"
    changelog, project = ROOT / CHANGELOG, ROOT / "pyproject.toml"
    text, settings = changelog.read_text(), project.read_text()
    new = cut_changelog(text, version, day), with_version(settings, version)
    for path, content in zip((changelog, project), new, strict=True):
        path.write_text(content)
    sys.stdout.write(
        f"{CHANGELOG} and pyproject.toml say {version}: look at them, commit, and tag v{version}\n"
    )


def main() -> None:
    """Carries out the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("cut").add_argument("version")
    commands.add_parser("check")
    commands.add_parser("build").add_argument("--draft", action="store_true")
    given = parser.parse_args()
    try:
        if given.command == "cut":
            cut(given.version)
        elif given.command == "check":
            check()
        else:
            build(draft=given.draft)
    except ReleaseError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
