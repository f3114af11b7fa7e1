"""The release tool: versions, the changelog, what is built, and the SBOM."""

from __future__ import annotations

import io
import json
import re
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
import release
from release import ReleaseError

ROOT = Path(__file__).parents[2]
LOG = """# Changelog

## [Unreleased]

### Added

- A thing.

## [1.0.0] - 2026-12-01

- The first one.
"""


def test_what_is_unreleased_goes_under_the_version() -> None:
    """And a new section for what comes next is above it."""
    cut = release.cut_changelog(LOG, "1.1.0", "2026-12-24")
    assert cut.split("\n\n")[1:4] == ["## [Unreleased]", "## [1.1.0] - 2026-12-24", "### Added"]
    assert cut.endswith("## [1.0.0] - 2026-12-01\n\n- The first one.\n")
    release.check_released(cut, "1.1.0")


@pytest.mark.parametrize(
    ("text", "version", "said"),
    [
        (LOG, "1.0.0", "1.0.0 is not above 1.0.0"),
        (LOG, "1.0.0-rc.1", "is not above"),
        (LOG, "0.9.9", "is not above"),
        (LOG, "1.1", "not a version of semantic versioning"),
        (LOG, "01.1.0", "not a version of semantic versioning"),
        (LOG.replace("- A thing.\n", ""), "1.1.0", "nothing is unreleased"),
        (LOG.replace("[Unreleased]", "[Next]"), "1.1.0", "has no section"),
    ],
)
def test_what_cannot_be_released_is_refused(text: str, version: str, said: str) -> None:
    """Nothing is written then."""
    with pytest.raises(ReleaseError, match=said):
        release.cut_changelog(text, version, "2026-12-24")


def test_versions_are_ordered_as_semantic_versioning_says() -> None:
    """A candidate is before its release, and 10 is after 9."""
    versions = ["0.9.0", "1.0.0-alpha.1", "1.0.0-beta.2", "1.0.0-rc.9", "1.0.0-rc.10", "1.0.0"]
    shuffled = [*versions[3:], *versions[:3]]
    assert sorted(shuffled, key=release.order) == versions
    assert release.order("1.10.0") > release.order("1.9.3")


def test_the_version_has_one_place() -> None:
    """pyproject.toml: the package, the wheel and the metrics read it from there."""
    text = (ROOT / "pyproject.toml").read_text()
    changed = release.with_version(text, "7.8.9")
    assert tomllib.loads(changed)["project"]["version"] == "7.8.9"
    assert len(set(text.splitlines()) - set(changed.splitlines())) == 1
    with pytest.raises(ReleaseError):
        release.with_version("", "1.0.0")


def test_this_changelog_can_be_cut() -> None:
    """The next release needs no more than the command, and has its notes for those who upgrade.

    Right after a release nothing is unreleased: then the newest version is that of the package.
    """
    text = (ROOT / "CHANGELOG.md").read_text()
    head, unreleased, rest = text.partition(f"{release.UNRELEASED}\n")
    if not re.search(r"^- ", rest.partition("\n## [")[0], re.MULTILINE):
        project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        release.check_released(text, project["version"])
        text = f"{head}{unreleased}\n- A thing.\n{rest}"
    cut = release.cut_changelog(text, "99.0.0", "2026-12-24")
    release.check_released(cut, "99.0.0")
    assert "### Upgrade notes" in text
    with pytest.raises(ReleaseError, match="run `make release-cut VERSION="):
        release.check_released(text, "99.0.0")


def test_what_is_unreleased_says_each_thing_once() -> None:
    """Each section has one heading, and no line begins as another does: merges double them."""
    text = (ROOT / "CHANGELOG.md").read_text().partition(release.UNRELEASED)[2]
    text = text.partition("\n## [")[0]
    headings = re.findall(r"^### .*", text, re.MULTILINE)
    assert sorted(headings) == sorted(set(headings))
    assert all(text.count(f"\n\n{heading}\n\n- ") == 1 for heading in headings)
    begins = re.findall(r"^- .{60}", text, re.MULTILINE)
    assert sorted(begins) == sorted(set(begins))


def test_what_speaks_against_a_release_is_said_before_its_tests() -> None:
    """With the command that mends it."""
    text = "## [Unreleased]\n\n- A thing.\n\n## [1.0.0] - 2026-01-01\n"
    with pytest.raises(ReleaseError, match=r"make release-cut VERSION=.*make release DRAFT=1"):
        release.check_released(text, "1.0.0")
    makefile = (ROOT / "Makefile").read_text()
    (needs,) = re.findall(r"^release: (.*)", makefile, re.MULTILINE)
    assert needs.index("release-check") < needs.index("test)")


def wheel(path: Path, *names: str, day: int = 1) -> Path:
    """A wheel that holds these files."""
    found = path / "gce_backend-1.0.0-py3-none-any.whl"
    with zipfile.ZipFile(found, "w") as archive:
        for name in names:
            archive.writestr(zipfile.ZipInfo(name, (2023, 11, day, 22, 13, 20)), "x")
    return found


def test_a_wheel_is_checked(tmp_path: Path) -> None:
    """Its version, what is in it, and that its times are those of the commit."""
    epoch = 1_700_000_000
    good = ("gce_backend/a.py", "gce_backend-1.0.0.dist-info/RECORD")
    release.check_wheel(wheel(tmp_path, *good, day=14), "1.0.0", epoch)
    with pytest.raises(ReleaseError, match=r"not of version 1\.0\.1"):
        release.check_wheel(wheel(tmp_path, *good, day=14), "1.0.1", epoch)
    with pytest.raises(ReleaseError, match=r"holds tests/a\.py"):
        release.check_wheel(wheel(tmp_path, *good, "tests/a.py", day=14), "1.0.0", epoch)
    with pytest.raises(ReleaseError, match="has a time of its own"):
        release.check_wheel(wheel(tmp_path, *good, day=13), "1.0.0", epoch)


def test_an_sbom_names_all_that_is_locked(tmp_path: Path) -> None:
    """Each package of requirements.lock in its version."""
    lock = "aiohttp==3.14.3 \\\n    --hash=sha256:00\nPyJWT==2.13.0 \\\n    --hash=sha256:11\n"
    sbom = tmp_path / "x.cdx.json"
    components = [{"name": "aiohttp", "version": "3.14.3"}, {"name": "pyjwt", "version": "2.13.0"}]
    about = {"metadata": {"component": {"version": "1.0.0"}}, "bomFormat": "CycloneDX"}
    sbom.write_text(json.dumps({**about, "components": components}))
    assert release.check_sbom(sbom, lock, "1.0.0") == 2
    with pytest.raises(ReleaseError, match="not about version"):
        release.check_sbom(sbom, lock, "1.0.1")
    sbom.write_text(json.dumps({**about, "components": components[:1]}))
    with pytest.raises(ReleaseError, match=r"lacks .*pyjwt"):
        release.check_sbom(sbom, lock, "1.0.0")


def test_an_sdist_does_not_tell_who_built_it(tmp_path: Path) -> None:
    """Two archives with other times, owners and order become the same bytes."""
    made = []
    for number, names in enumerate((("a", "b"), ("b", "a"))):
        path = tmp_path / f"{number}.tar.gz"
        with tarfile.open(path, "w:gz") as archive:
            for name in names:
                member = tarfile.TarInfo(name)
                member.size, member.mtime, member.uid = 1, number, 1000 + number
                member.uname = f"user{number}"
                archive.addfile(member, io.BytesIO(b"x"))
        release._normalize(path, 1_700_000_000)
        made.append(path.read_bytes())
    assert made[0] == made[1]


def test_what_a_release_needs_is_locked() -> None:
    """By hash, as all that `make` installs."""
    text = (ROOT / "requirements-release.lock").read_text()
    assert re.search(r"^cyclonedx-bom==\d", text, re.MULTILINE)
    packages = re.findall(r"^[A-Za-z0-9._-]+==\S+ \\\n    --hash=sha256:", text, re.MULTILINE)
    assert len(packages) == len(re.findall(r"^[A-Za-z0-9._-]+==", text, re.MULTILINE))
