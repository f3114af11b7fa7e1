"""The commands' messages and exit codes: what is wrong, where, and what to do."""

from __future__ import annotations

import socket
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import structlog
from click.testing import CliRunner, Result

from gce_backend import __version__
from gce_backend.cli import main
from gce_backend.localcloud.tables import STATE_VERSION, Tables
from support import config_texts as texts

EXAMPLE = Path(__file__).parents[3] / "config"

Command = Callable[..., Result]


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Command]:
    """Runs a command in an empty directory; what it has said about logging ends with the test."""
    monkeypatch.chdir(tmp_path)

    def invoke(*arguments: str, **environment: str) -> Result:
        return CliRunner().invoke(main, list(arguments), env=environment)

    yield invoke
    structlog.reset_defaults()


@pytest.fixture
def taken_port() -> Iterator[int]:
    """A port on which somebody else listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def refused(result: Result) -> str:
    """What a command said that could not do it: a message, and no traceback."""
    assert result.exit_code == 1, result.output
    logged, error, _ = result.output.partition("Error: ")
    assert error
    assert all('"severity":"INFO"' in line for line in logged.splitlines()), logged
    assert "Traceback" not in result.output
    assert isinstance(result.exception, SystemExit)
    return result.output


def write_config(directory: Path, templates: str, managers: str) -> Path:
    """A directory with this configuration."""
    directory.mkdir()
    (directory / "templates.cfg").write_text(templates)
    (directory / "managers.cfg").write_text(managers)
    return directory


def test_version_is_told(command: Command) -> None:
    """`--version` names the program and its version."""
    result = command("--version")
    assert (result.exit_code, result.output) == (0, f"gce-backend, version {__version__}\n")


def test_python_dash_m_is_the_same_command() -> None:
    """`python -m gce_backend` shows the commands of `gce-backend`."""
    done = subprocess.run(
        [sys.executable, "-m", "gce_backend", "--help"], capture_output=True, text=True, check=True
    )
    for name in main.commands:
        assert f"\n  {name} " in done.stdout
    assert done.stderr == ""


@pytest.mark.parametrize("name", sorted(main.commands))
def test_every_command_and_option_is_explained(command: Command, name: str) -> None:
    """The help says what the command does and what each option is for."""
    result = command(name, "--help")
    assert result.exit_code == 0
    assert main.commands[name].help
    for parameter in main.commands[name].params:
        if parameter.param_type_name == "option":
            assert getattr(parameter, "help", None), parameter.name


def test_validate_accepts_the_example(command: Command) -> None:
    """The configuration that `make run` uses is valid."""
    result = command("validate", str(EXAMPLE))
    assert (result.exit_code, result.output) == (0, f"{EXAMPLE}: valid\n")


def test_validate_prints_every_problem_with_file_line_template_and_field(
    command: Command, tmp_path: Path
) -> None:
    """All problems and warnings of both files, how many problems there are, and exit code 1."""
    directory = write_config(
        tmp_path / "wrong",
        texts.template(disk_size_gb=5, machine_type="none at all"),
        texts.manager(template_base_name="nobody") + texts.manager(minimum_size=9),
    )
    result = command("validate", str(directory))
    assert result.exit_code == 1
    lines = result.output.splitlines()
    assert lines[-1] == f"3 problems in {directory}"
    assert len(lines) == 5
    for file, line, subject, field in (
        ("templates.cfg", 4, 'template "linux"', "machine_type"),
        ("templates.cfg", 7, 'template "linux"', "disk_size_gb"),
        ("managers.cfg", 2, "managers[0]", "template_base_name"),
        ("managers.cfg", 10, "managers[1]", "maximum_size"),
    ):
        found = [text for text in lines if text.startswith(f"{file}:") and field in text]
        assert found, (file, field, lines)
        assert any(f":{line}: " in text and subject in text for text in found), (line, found)


@pytest.mark.parametrize("name", ["templates.cfg", "managers.cfg"])
def test_validate_names_the_file_that_is_missing(
    command: Command, tmp_path: Path, name: str
) -> None:
    """One of the two is not there."""
    directory = write_config(tmp_path / "half", texts.template(), texts.manager())
    (directory / name).unlink()
    result = command("validate", str(directory))
    assert result.exit_code == 1
    assert result.output.startswith(f"{name}: ")
    assert "1 problem in" in result.output


def test_validate_of_no_directory_says_so(command: Command) -> None:
    """A typing error in the directory's name."""
    result = command("validate", "nowhere")
    assert result.exit_code == 1
    assert "nowhere" in result.output
    assert "no such directory" in result.output


@pytest.mark.parametrize("arguments", [("run",), ("run", "--local")])
def test_run_on_a_taken_port_names_port_and_setting(
    command: Command, taken_port: int, arguments: tuple[str, ...]
) -> None:
    """Another daemon probably runs: the message says what to set."""
    output = refused(
        command(
            *arguments,
            *(("--config", str(EXAMPLE)) if len(arguments) > 1 else ()),
            GCE_BACKEND_HTTP__PORT=str(taken_port),
            GCE_BACKEND_CONFIG__SOURCE="luci-v2",
            GCE_BACKEND_LOG__LEVEL="error",  # what it logs before is another matter
        )
    )
    assert str(taken_port) in output
    assert "GCE_BACKEND_HTTP__PORT" in output


def test_localcloud_on_a_taken_port_names_port_and_option(
    command: Command, taken_port: int
) -> None:
    """The embedded cloud likewise."""
    output = refused(command("localcloud", "--port", str(taken_port)))
    assert str(taken_port) in output
    assert "--port" in output


def test_localcloud_on_a_port_that_is_none_is_wrong_usage(command: Command) -> None:
    """Exit code 2, and the range that ports are in."""
    result = command("localcloud", "--port", "99999")
    assert result.exit_code == 2
    assert "0<=x<=65535" in result.output


@pytest.mark.parametrize("arguments", [("run", "--local"), ("localcloud", "--port", "0")])
def test_a_state_file_of_another_version_is_refused_with_the_remedy(
    command: Command, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    """Named with both versions; it is not touched."""
    state = tmp_path / "state.sqlite"
    Tables(state).close()
    with sqlite3.connect(state) as connection:
        connection.execute("UPDATE meta SET version = 99")
    connection.close()
    before = state.read_bytes()
    output = refused(command(*arguments, "--config", str(EXAMPLE), "--state", str(state)))
    assert str(state) in output
    assert "99" in output
    assert str(STATE_VERSION) in output
    assert "Move the file away" in output
    assert state.read_bytes() == before


@pytest.mark.parametrize("arguments", [("run", "--local"), ("localcloud", "--port", "0")])
def test_a_state_file_in_use_is_refused_with_the_remedy(
    command: Command, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    """Another process has it."""
    state = tmp_path / "state.sqlite"
    tables = Tables(state)
    try:
        output = refused(command(*arguments, "--config", str(EXAMPLE), "--state", str(state)))
    finally:
        tables.close()
    assert str(state) in output
    assert "stop it, or name another file with --state" in " ".join(output.split())


def test_a_state_file_with_a_row_that_means_nothing_is_refused(
    command: Command, tmp_path: Path
) -> None:
    """Damaged, or written by a version that forgot to say so: the row is named."""
    state = tmp_path / "state.sqlite"
    Tables(state).close()
    with sqlite3.connect(state) as connection:
        row = "INSERT INTO row (tab, key, value) VALUES ('compute.groups', 'p/z/g', '{}')"
        connection.execute(row)
    connection.close()
    output = refused(command("run", "--local", "--config", str(EXAMPLE), "--state", str(state)))
    assert str(state) in output
    assert "compute.groups p/z/g" in output
    assert "Move the file away" in output


def test_a_state_file_that_is_none_is_refused_and_left_alone(
    command: Command, tmp_path: Path
) -> None:
    """A text file was named by mistake."""
    state = tmp_path / "notes.txt"
    state.write_text("my notes\n" * 200)
    output = refused(command("run", "--local", "--config", str(EXAMPLE), "--state", str(state)))
    assert str(state) in output
    assert "--state" in output
    assert state.read_text() == "my notes\n" * 200


def test_a_state_file_that_cannot_be_made_is_refused(command: Command, tmp_path: Path) -> None:
    """A file stands where its directory should be."""
    (tmp_path / "var").write_text("")
    output = refused(command("run", "--local", "--config", str(EXAMPLE)))
    assert "var" in output
    assert "--state" in output


def test_run_local_without_its_configuration_says_where_it_looked(command: Command) -> None:
    """Started in another directory than the one with `config`."""
    output = refused(command("run", "--local"))
    assert "config: there is no such directory" in output
    assert "--config" in output


def test_an_unknown_settings_key_is_refused_with_its_name(command: Command, tmp_path: Path) -> None:
    """In the file: named with the file. All problems at once."""
    settings = tmp_path / "settings.toml"
    settings.write_text("colour = 'blue'\n[http]\nprot = 80\n")
    output = refused(command("run", "--settings", str(settings)))
    assert str(settings) in output
    assert "colour" in output
    assert "http.prot" in output


def test_an_unknown_settings_variable_is_refused_with_its_name(command: Command) -> None:
    """In the environment: named as the variable."""
    assert "GCE_BACKEND_HTTP__PROT" in refused(command("run", GCE_BACKEND_HTTP__PROT="80"))


def test_a_settings_file_that_is_missing_is_named(command: Command) -> None:
    """A typing error in `--settings`."""
    assert "nowhere.toml" in refused(command("run", "--settings", "nowhere.toml"))


def test_configure_without_a_project_anywhere_says_what_to_set(command: Command) -> None:
    """No metadata server answers, and no project is set."""
    output = refused(command("configure", GCE_BACKEND_ENDPOINTS__METADATA="http://127.0.0.1:9"))
    assert "metadata" in output
    assert "`project` in the settings" in output


def test_an_unknown_command_suggests_help(command: Command) -> None:
    """A typing error in the command's name: exit code 2, as usual."""
    result = command("rnu")
    assert result.exit_code == 2
    assert "No such command 'rnu'" in result.output
