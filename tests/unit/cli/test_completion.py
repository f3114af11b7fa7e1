"""Completion: scripts that shells take, and names from the daemon."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.shell_completion import BashComplete

from gce_backend.cli import main
from support.served_fleet import ServedFleet, served_fleet

BASH = shutil.which("bash") or "bash"
PROGRAM = Path(sys.executable).parent / "gce-backend"


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedFleet]:
    """A daemon with three machines."""
    with served_fleet(tmp_path_factory.mktemp("config")) as running:
        yield running


@pytest.fixture
def found(fleet: ServedFleet, monkeypatch: pytest.MonkeyPatch) -> ServedFleet:
    """The daemon is found by the variables of this process."""
    for name, value in fleet.environment.items():
        monkeypatch.setenv(name, value)
    return fleet


def offered(*words: str) -> list[str]:
    """What is offered for the last word."""
    complete = BashComplete(main, {}, "gce-backend", "_GCE_BACKEND_COMPLETE")
    return [item.value for item in complete.get_completions(list(words[:-1]), words[-1])]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_script_is_what_its_shell_understands(fleet: ServedFleet, shell: str) -> None:
    """Checked by the shell itself where it is there."""
    done = fleet.run("completion", shell)
    assert done.exit_code == 0
    assert "_GCE_BACKEND_COMPLETE" in done.stdout
    if shutil.which(shell):
        subprocess.run([shell, "-n"], input=done.stdout, text=True, check=True)


def test_another_shell_is_wrong_usage(fleet: ServedFleet) -> None:
    """Exit code 2, with those there are."""
    done = fleet.run("completion", "tcsh")
    assert done.exit_code == 2
    assert "'bash', 'zsh', 'fish'" in done.output


@pytest.mark.parametrize("command", ["explain", "drain", "undrain"])
def test_machines_complete(found: ServedFleet, command: str) -> None:
    """By the beginnings of their names."""
    machines = sorted(found.machines())
    assert sorted(offered(command, "linux-74")) == machines
    assert offered(command, machines[0][:-1]) == [machines[0]]
    assert offered(command, "nothing") == []


@pytest.mark.parametrize("command", ["events", "pause", "resume", "lease"])
def test_templates_complete(found: ServedFleet, command: str) -> None:
    """Where a template is asked for."""
    assert offered(command, "--template", "li") == ["linux"]


def test_zones_complete(found: ServedFleet) -> None:
    """Those that have groups."""
    assert offered("events", "--zone", "") == ["us-central1-a"]


def test_templates_can_be_explained_too(found: ServedFleet) -> None:
    """They come before the machines, which are more."""
    assert offered("explain", "")[0] == "linux"


def test_the_daemon_is_the_one_that_was_named(
    found: ServedFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By --url, before the word that is completed."""
    url = found.environment["GCE_BACKEND_URL"]
    monkeypatch.setenv("GCE_BACKEND_URL", "http://127.0.0.1:9")
    assert offered("explain", "--url", url, "lin")
    assert offered("explain", "lin") == []


@pytest.mark.parametrize("wrong", ["http://127.0.0.1:9", "nonsense"])
def test_without_a_daemon_nothing_is_offered_and_nothing_is_said(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], wrong: str
) -> None:
    """A shell would print it into the line that somebody types."""
    monkeypatch.setenv("GCE_BACKEND_URL", wrong)
    assert offered("explain", "lin") == []
    assert capfd.readouterr() == ("", "")


def test_bash_completes_with_the_script(found: ServedFleet) -> None:
    """The installed program, its script, and bash together."""
    machine = min(found.machines())
    script = f"""
        source <({PROGRAM} completion bash)
        COMP_WORDS=(gce-backend explain {machine[:-1]}) COMP_CWORD=2
        _gce_backend_completion {PROGRAM}
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    done = subprocess.run([BASH, "-c", script], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == (f"{machine}\n", "")
