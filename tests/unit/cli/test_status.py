"""`status`, `explain`, `events`: what they show of a running daemon, and when there is none."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import IO, Any

import pytest
from click.testing import CliRunner

from gce_backend.cli import main
from support.patience import PATIENCE
from support.served_fleet import ServedFleet, served_fleet

GROUP = "linux-74a47a08-usc1a"


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedFleet]:
    """A daemon with three machines in the catalog."""
    with served_fleet(tmp_path_factory.mktemp("config")) as running:
        yield running


@pytest.fixture
def paused(fleet: ServedFleet) -> Iterator[ServedFleet]:
    """The same, while an operator pauses a template."""
    fleet.order("/api/pause", template="linux", reason="a leak")
    yield fleet
    fleet.order("/api/resume", all=True)


@pytest.fixture
def nowhere() -> str:
    """An address where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"http://127.0.0.1:{server.getsockname()[1]}"


def test_status_shows_the_fleet(fleet: ServedFleet) -> None:
    """What it is, that nothing is wrong, and a line for each template and zone."""
    done = fleet.run("status")
    assert done.exit_code == 0
    lines = done.output.splitlines()
    assert lines[0] == "project:       local-project, owner gce-backend"
    assert re.fullmatch(
        r"configuration: [0-9a-f]{12}, in force since \d{4}-\d\d-\d\d [\d:]{8} \w+ \(\d+s ago\)",
        lines[1],
    )
    # What they cost is told once the daemon has learned it.
    assert [line for line in lines[2:] if not line.startswith("cost: ")] == [
        "machines:      3: 3 cataloged",
        "",
        "no problems",
        "",
        "TEMPLATE  ZONE           STATE   MIN  TARGET  CATALOGED  LEASED",
        "linux     us-central1-a  active    3       3          3       0",
    ]


def test_problems_come_first(paused: ServedFleet) -> None:
    """Before the table: how grave, about what, since when, the remedy; on one line in a pipe."""
    lines = paused.run("status").output.splitlines()
    (row,) = [line for line in lines if line.startswith("notice ")]
    assert "pause template linux" in row
    resume = "`gce-backend resume --template linux`. Ordered by operator. Reason: a leak"
    assert f"The daemon changes nothing in template linux until {resume}" in row
    order = [line.split()[0] for line in lines if line]
    assert order.index("1") < order.index("notice") < order.index("TEMPLATE")


def test_status_is_json_for_programs(fleet: ServedFleet) -> None:
    """The daemon's own document."""
    document = fleet.json("status")
    assert document["machines"]["cataloged"] == 3
    assert document["fleet"][0]["template"] == "linux"


def test_explain_describes_a_machine(fleet: ServedFleet) -> None:
    """State, why, facts in words with local times, and its history."""
    name = min(fleet.machines())
    done = fleet.run("explain", name)
    assert done.exit_code == 0
    facts = dict(
        line.split(":", 1) for line in done.output.splitlines() if not line.startswith(" ")
    )
    told = {fact: value.strip() for fact, value in facts.items()}
    assert (told["name"], told["kind"], told["state"]) == (name, "machine", "cataloged")
    assert told["why"] == "It is in the catalog and can be leased."
    assert told["machine type"] == "e2-small"
    assert re.match(r"\d{4}-\d\d-\d\d .* \(\d+\w ago\)$", told["sent to catalog"])
    assert re.search(r"running +cataloged +job catalog-instances", done.output)


def test_explain_describes_groups_and_templates(fleet: ServedFleet) -> None:
    """By template and zone, by name; a template with its groups."""
    by_place = fleet.run("explain", "linux/us-central1-a").output
    assert by_place == fleet.run("explain", GROUP).output
    assert re.search(r"^minimum: +3$", by_place, re.MULTILINE)
    assert re.search(r"^machines: +3 cataloged$", by_place, re.MULTILINE)
    template = fleet.run("explain", "linux").output
    assert re.search(rf"{GROUP} +us-central1-a +74a47a08 +active +3 cataloged", template)


def test_explain_of_a_wrong_name_suggests_the_right_one(fleet: ServedFleet) -> None:
    """Exit code 1; nothing on standard output, also with --json."""
    for more in ((), ("--json",)):
        done = fleet.run("explain", "linx", *more)
        assert (done.exit_code, done.stdout) == (1, "")
        assert "'linx'. Did you mean: linux" in done.stderr


def test_explain_is_json_for_programs(fleet: ServedFleet) -> None:
    """The daemon's own document."""
    (found,) = fleet.json("explain", "linux")["found"]
    assert (found["kind"], found["state"]) == ("template", "active")


def test_conditions_are_described(paused: ServedFleet) -> None:
    """What keeps a thing from going on stands by itself."""
    output = paused.run("explain", "linux").output
    assert re.search(r"^conditions:\n +REASON .*\n +Paused .*a leak$", output, re.MULTILINE)


def test_events_end_with_the_newest(fleet: ServedFleet) -> None:
    """Filtered as asked; the last ones when there are more."""
    cause = ("--kind", "machine", "--cause", "job catalog-instances")
    done = fleet.run("events", *cause, "--since", "1h")
    lines = done.output.splitlines()
    assert done.exit_code == 0
    assert lines[0].split() == ["WHEN", "KIND", "NAME", "BEFORE", "AFTER", "CAUSE", "REASON"]
    assert [line.split()[6] for line in lines[1:]] == ["running"] * 3 + ["cataloged"] * 3
    last = fleet.run("events", *cause, "--limit", "2").output.splitlines()
    assert [line.split() for line in last[1:]] == [line.split() for line in lines[-2:]]
    assert fleet.run("events", *cause, "--since", "0s").stdout == ""


@pytest.mark.parametrize(
    ("arguments", "kinds"),
    [
        (("--template", "linux", "--kind", "template"), {"template"}),
        (("--zone", "us-central1-a"), {"group", "machine"}),
        (("--name", GROUP), {"group"}),
        (("--cause", "operator configure"), {"configuration"}),
        (("--cause", "job import-config"), {"configuration"}),
    ],
)
def test_events_are_filtered(
    fleet: ServedFleet, arguments: tuple[str, ...], kinds: set[str]
) -> None:
    """By each of the daemon's filters."""
    assert {event["kind"] for event in fleet.json("events", *arguments)["events"]} == kinds


def test_no_events_are_no_error(fleet: ServedFleet) -> None:
    """Standard output stays empty; JSON stays JSON."""
    done = fleet.run("events", "--name", "nobody")
    assert (done.exit_code, done.stdout) == (0, "")
    assert "no stored event" in done.stderr
    assert fleet.json("events", "--name", "nobody") == {"events": []}


@pytest.mark.parametrize("since", ["yesterday", "-1h", "1 h", "5w", ""])
def test_a_length_of_time_is_written_so(fleet: ServedFleet, since: str) -> None:
    """A usage error, exit code 2, with examples."""
    done = fleet.run("events", "--since", since)
    assert done.exit_code == 2
    assert "write e.g. 90s, 15m, 1h30m" in done.output


def test_a_watch_leaves_the_daemon_time_to_breathe(fleet: ServedFleet) -> None:
    """No interval of nothing."""
    done = fleet.run("status", "--watch", "--interval", "0")
    assert done.exit_code == 2
    assert "0.1s at least" in done.output


@pytest.mark.parametrize(
    "command", [["status"], ["explain", "x"], ["events"], ["status", "--watch"]]
)
def test_without_a_daemon_the_remedy_is_told(
    fleet: ServedFleet, nowhere: str, command: list[str]
) -> None:
    """Exit code 1; which address, and how to start or find a daemon."""
    done = fleet.run(*command, "--url", nowhere)
    assert (done.exit_code, done.stdout) == (1, "")
    assert f"no daemon answers at {nowhere} (no connection: connection refused)" in done.stderr
    assert "`gce-backend run`" in done.stderr
    assert "--url or GCE_BACKEND_URL" in done.stderr


@pytest.mark.parametrize("url", ["http://example.com", "ftp://127.0.0.1", "nonsense"])
def test_an_address_that_would_show_the_token_is_refused(fleet: ServedFleet, url: str) -> None:
    """Plain http is for loopback: a usage error."""
    assert fleet.run("status", "--url", url).exit_code == 2
    assert fleet.run("status", GCE_BACKEND_URL=url).exit_code == 1


@pytest.mark.parametrize("command", ["status", "explain linux", "events"])
@pytest.mark.parametrize("plain", [(), ("--no-color",)])
def test_only_a_terminal_sees_colours(
    paused: ServedFleet, command: str, plain: tuple[str, ...]
) -> None:
    """None in a pipe, and none in a terminal that wants none."""
    arguments = [*command.split(), *plain]
    assert "\x1b" not in paused.run(*arguments).output
    variables = {**paused.environment, "FORCE_COLOR": "1", "COLUMNS": "300", "TERM": "xterm"}
    seen = CliRunner().invoke(main, arguments, env=variables, color=not plain)
    assert ("\x1b[1m" in seen.output) == (not plain)


def test_a_narrow_terminal_wraps_words_and_no_names(paused: ServedFleet) -> None:
    """Only the last column is wrapped; where not even that fits, each row is a record."""

    def lines(columns: int) -> list[str]:
        terminal = {"FORCE_COLOR": "1", "COLUMNS": str(columns), "NO_COLOR": "1"}
        output = paused.run("explain", "linux", **terminal).output
        return output[output.index("groups:") : output.index("conditions:")].splitlines()

    wide, narrow = lines(300), lines(40)
    least = wide[1].index("WHY") + 24
    wrapped = lines(least)
    assert narrow[1] == "  " + wide[2].split()[0]
    assert "machines 3 cataloged" in " ".join(" ".join(narrow).split())
    assert max(map(len, wrapped)) <= least < max(map(len, wide))
    assert wrapped[2].split()[:6] == wide[2].split()[:6]
    assert wrapped[2].split()[4:6] == ["3", "cataloged"]


@contextlib.contextmanager
def started(fleet: ServedFleet, *arguments: str, **more: Any) -> Iterator[subprocess.Popen[str]]:
    """A command in a process of its own, which does not outlive the block, nor a hang."""
    environment = {**os.environ, **fleet.environment, "TERM": "xterm"}
    command = [sys.executable, "-m", "gce_backend", *arguments]
    with subprocess.Popen(command, env=environment, text=True, **more) as process:
        watchdog = threading.Timer(PATIENCE, process.kill)
        watchdog.start()
        try:
            yield process
        finally:
            watchdog.cancel()
            process.kill()


def line_of(stream: IO[str] | None) -> str:
    """The next line."""
    assert stream is not None
    return stream.readline()


def line_with(text: str, stream: IO[str] | None) -> str:
    """The next line that holds a text; "" when the stream ends before it comes."""
    line = line_of(stream)
    while line and text not in line:
        line = line_of(stream)
    return line


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Ctrl-C, and what came of it: the exit code and standard error."""
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=PATIENCE)
    return process.returncode, errors


def test_followed_events_come_as_they_happen(fleet: ServedFleet) -> None:
    """Those before, then new ones, each on a line; Ctrl-C ends it with 0, without a traceback."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    follow = ("events", "--follow", "--cause", "operator", "--limit", "1")
    with (
        started(fleet, *follow, **pipes) as words,
        started(fleet, *follow, "--json", **pipes) as js,
    ):
        first = json.loads(line_of(js.stdout))
        assert first["cause"].startswith("operator")
        assert first["name"] in line_of(words.stdout)
        fleet.order("/api/pause", reason="to be seen")
        try:
            event = json.loads(line_with("to be seen", js.stdout))
            assert (event["before"], event["after"]) == ("running", "paused")
            said = line_with("to be seen", words.stdout)
            assert "control running -> paused [operator pause by operator] to be seen\n" in said
        finally:
            fleet.order("/api/resume")
        after = json.loads(line_of(js.stdout))
        assert (after["after"], after["id"] > event["id"]) == ("running", True)
        assert (ended(words), ended(js)) == ((0, ""), (0, ""))


def test_a_watch_goes_on_until_it_is_interrupted(fleet: ServedFleet) -> None:
    """In a pipe, with --json, a document on each line."""
    watch = ("status", "--watch", "--interval", "0.1", "--json")
    with started(fleet, *watch, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        times = [json.loads(line_of(process.stdout))["now"] for _ in range(3)]
        assert times == sorted(set(times))
        assert ended(process) == (0, "")


@pytest.mark.parametrize("plain", [(), ("--no-color",)])
def test_a_watch_in_a_terminal_takes_the_screen_and_gives_it_back(
    fleet: ServedFleet, plain: tuple[str, ...]
) -> None:
    """The last status stays in the scrollback when Ctrl-C has ended it."""
    ours, theirs = pty.openpty()
    with started(
        fleet, "status", "--watch", *plain, stdout=theirs, stderr=subprocess.PIPE, stdin=theirs
    ) as process:
        os.close(theirs)
        seen = b""
        with contextlib.suppress(OSError):  # the other side has closed
            while b"no problems" not in seen:
                seen += os.read(ours, 65536)
            process.send_signal(signal.SIGINT)
            while True:
                seen += os.read(ours, 65536)
        assert process.wait(timeout=PATIENCE) == 0
    os.close(ours)
    assert b"no problems" in seen, seen
    shown, _, afterwards = seen.decode().rpartition("\x1b[?1049l")
    assert "\x1b[?1049h" in shown
    assert ("\x1b[32mno problems" in shown) == (not plain)
    assert "no problems" in afterwards
