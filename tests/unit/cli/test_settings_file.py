"""Which settings file a command reads: the named one, the embedded cloud's, the installed one."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from gce_backend.cli import main, settings_file
from gce_backend.cli.main import COMMANDS
from gce_backend.cli.settings_file import LOCAL_FILE, search
from gce_backend.daemon.local import local_settings
from gce_backend.daemon.local import settings_file as written
from gce_backend.settings.settings import SETTINGS_VARIABLE, Settings, load
from support.fleet_harness import PROJECT
from support.served_fleet import ServedFleet, served_fleet

SERVICES = {"run", "machine-provider"}
"""What takes only a file that is named."""


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedFleet]:
    """A daemon on an embedded cloud."""
    with served_fleet(tmp_path_factory.mktemp("config")) as running:
        yield running


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory in which commands run, on a machine where nothing is installed."""
    (tmp_path / "var").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(SETTINGS_VARIABLE)
    monkeypatch.setattr(settings_file, "USUAL_FILE", tmp_path / "etc.toml")
    return tmp_path


def local_text(fleet: ServedFleet, url: str | None = None) -> str:
    """What `run --local` writes for this daemon."""
    settings = local_settings(Settings(), fleet.cloud.base_url, PROJECT, fleet.config)
    return written(settings, url or fleet.daemon.url)


def free_port() -> int:
    """A port at which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def typed(*arguments: str, **variables: str) -> Result:
    """Runs a command with no variables but these."""
    return CliRunner().invoke(main, list(arguments), env=variables)


def taken(command: str, *arguments: str) -> str | None:
    """The project in the settings of a command that is called so."""
    with main.commands[command].make_context(command, list(arguments)) as context:
        settings: Settings = context.params["settings"]
        return settings.project


def naming(file: Path) -> None:
    """Writes settings that name a project as the file is named."""
    file.write_text(f'project = "{file.stem}"\n', "utf-8")


def test_a_command_finds_the_embedded_cloud_that_runs_here(fleet: ServedFleet, here: Path) -> None:
    """No option and no variable; the order reaches the store of that cloud."""
    (here / LOCAL_FILE).write_text(local_text(fleet), "utf-8")
    for command, says in ((["status"], "no problems"), (["lift-cap", "--minutes", "0"], "apply")):
        done = typed(*command)
        assert done.exit_code == 0, done.output
        assert says in done.output


def test_a_variable_overrides_the_file_that_was_found(fleet: ServedFleet, here: Path) -> None:
    """As it does with every file."""
    (here / LOCAL_FILE).write_text(local_text(fleet), "utf-8")
    url = f"http://127.0.0.1:{free_port()}"
    done = typed("status", GCE_BACKEND_URL=url)
    assert done.exit_code == 1
    assert url in done.output
    assert f"The settings are those of {LOCAL_FILE}." in done.output


def test_a_file_that_a_killed_cloud_left_is_passed_over(fleet: ServedFleet, here: Path) -> None:
    """Its daemon does not answer; the installed file is taken."""
    (here / LOCAL_FILE).write_text(local_text(fleet, f"http://127.0.0.1:{free_port()}"), "utf-8")
    usual = here / "usual.toml"
    usual.touch()
    found = search(LOCAL_FILE, usual)
    assert found.file == usual
    assert found.passed[-1] == f"{LOCAL_FILE} (its daemon does not answer)"


@pytest.mark.parametrize(
    ("ours", "foreign"),
    [
        ('datastore = "http', 'datastore = "https://example.com/http'),
        ('url = "http', 'url = "http://example.com:80/http'),
        ('pubsub = "', 'pubsub = 5 #"'),
    ],
)
def test_a_file_that_names_somebody_elses_host_gets_no_token(
    fleet: ServedFleet, here: Path, ours: str, foreign: str
) -> None:
    """Whoever wrote it into a directory that one works in could read tokens."""
    text = local_text(fleet)
    assert ours in text
    (here / LOCAL_FILE).write_text(text.replace(ours, foreign), "utf-8")
    found = search(LOCAL_FILE, here / "usual.toml")
    assert found.file is None
    assert f"{LOCAL_FILE} (it names services that are not on this machine)" in found.passed


def test_an_error_says_where_a_file_was_looked_for(here: Path) -> None:
    """When other settings could help: no daemon answers, or a setting is missing."""
    for command in ("status", "leases"):
        done = typed(command, GCE_BACKEND_HTTP__PORT=str(free_port()))
        assert done.exit_code == 1
        assert (
            "No settings file was found. Looked at: --settings and GCE_BACKEND_SETTINGS (not "
            "given); var/localcloud.toml (no embedded cloud runs in this directory); "
            f"{here / 'etc.toml'} (it does not exist)." in done.output
        )


def test_an_error_that_settings_cannot_help_says_nothing_of_them(
    fleet: ServedFleet, here: Path
) -> None:
    """A name that does not exist."""
    del here
    done = fleet.run("explain", "nobody")
    assert done.exit_code == 1
    assert "settings" not in done.output


def test_the_option_comes_before_the_variable(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And both before any file that is found."""
    for name in ("etc", "named", "given"):
        naming(here / f"{name}.toml")
    assert taken("status") == "etc"
    monkeypatch.setenv(SETTINGS_VARIABLE, "named.toml")
    assert taken("status") == "named"
    assert taken("status", "--settings", "given.toml") == "given"
    assert load(None, {SETTINGS_VARIABLE: "named.toml"}) == Settings()


def test_a_service_takes_only_a_file_that_is_named(
    fleet: ServedFleet, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A daemon on the settings of what happens to run beside it would work on that fleet."""
    (here / LOCAL_FILE).write_text(local_text(fleet), "utf-8")
    naming(here / "etc.toml")
    naming(here / "named.toml")
    assert {taken(command) for command in SERVICES} == {None}
    monkeypatch.setenv(SETTINGS_VARIABLE, "named.toml")
    assert {taken(command) for command in SERVICES} == {"named"}


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_no_command_has_a_way_of_its_own(name: str) -> None:
    """Every command with settings says where they are looked for."""
    for option in main.commands[name].params:
        if option.name == "settings":
            assert isinstance(option, click.Option)
            assert option.envvar == SETTINGS_VARIABLE
            assert (str(LOCAL_FILE) in (option.help or "")) == (name not in SERVICES)
