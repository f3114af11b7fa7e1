"""`--json`: what programs get of the commands that prepare a project, and of `version`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner

from gce_backend import __version__
from gce_backend.cli import main
from support.fleet_harness import manager, template
from support.served_cloud import ServedCloud, served_cloud

Json = Callable[..., tuple[int, Any]]


@pytest.fixture(scope="module")
def served() -> Iterator[ServedCloud]:
    """An empty project."""
    with served_cloud() as running:
        yield running


@pytest.fixture
def run(served: ServedCloud) -> Json:
    """The exit code of a command, and its document."""

    def invoke(*arguments: str) -> tuple[int, Any]:
        done = CliRunner().invoke(main, [*arguments, "--json"], env=served.environment)
        return done.exit_code, msgspec.json.decode(done.stdout)

    return invoke


def test_version(run: Json) -> None:
    """The same as `--version` says."""
    assert run("version") == (0, {"version": __version__})
    words = CliRunner().invoke(main, ["version"]).output
    assert words == CliRunner().invoke(main, ["--version"]).output


def test_validate(run: Json, tmp_path: Path) -> None:
    """Each problem with its place; the exit code is that of the words."""
    (tmp_path / "templates.cfg").write_text(template())
    (tmp_path / "managers.cfg").write_text(manager())
    assert run("validate", str(tmp_path)) == (
        0,
        {"valid": True, "problems": [], "total": 0, "warnings": []},
    )
    (tmp_path / "managers.cfg").write_text(manager("nobody") + manager(zone="nowhere"))
    code, document = run("validate", str(tmp_path))
    assert (code, document["valid"], document["total"]) == (1, False, 1)
    (warning,) = document["warnings"]
    assert (warning["file"], warning["line"]) == ("managers.cfg", 1)
    assert warning["field"] == "template_base_name"
    (problem,) = document["problems"]
    assert (problem["file"], problem["field"]) == ("managers.cfg", "zone")


def test_configure_refuses_an_address_that_setup_would_refuse(
    run: Json, served: ServedCloud
) -> None:
    """Nothing is stored of it, nor of what was given with it."""
    wrong = ("--machine-provider", "https://elsewhere.invalid", "--config-set", "services/z")
    assert run("configure", "--config-set", "services/a")[0] == 0
    done = CliRunner().invoke(main, ["configure", *wrong], env=served.environment)
    assert done.exit_code == 1
    assert "machine_provider.allowed_hosts" in done.output
    assert run("configure", "--config-set", "services/z") == (0, {"changed": 1})


def test_configure(run: Json) -> None:
    """How much it changed: the second time nothing."""
    assert run("configure", "--config-set", "services/x")[0] == 0
    assert run("configure", "--config-set", "services/y") == (0, {"changed": 1})
    assert run("configure", "--config-set", "services/y") == (0, {"changed": 0})


def test_setup(run: Json, served: ServedCloud) -> None:
    """Each step with its outcome and remedy; a dry run makes nothing."""
    addresses = ("--config-service", served.url, "--machine-provider", served.url)
    setup = ("setup", "--config-set", "services/x", *addresses)
    code, dry = run(*setup, "--dry-run")
    assert (dry["dry_run"], dry["ok"], code) == (True, True, 0)
    assert {"would make", "would change"} & {step["outcome"] for step in dry["steps"]}
    code, done = run(*setup)
    assert (done["project"], done["ok"], code) == ("local-project", True, 0)
    assert "made" in {step["outcome"] for step in done["steps"]}
    _, again = run(*setup)
    assert not {"made", "changed"} & {step["outcome"] for step in again["steps"]}
    assert all(set(step) == {"what", "outcome", "remedy"} for step in again["steps"])
