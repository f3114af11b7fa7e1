"""The embedded cloud and the daemon as two processes over sockets, killed and started again."""

from __future__ import annotations

import contextlib
import shutil
import signal
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from processes.running import Screen, Site, site, until
from support.fleet_harness import OTHER_ZONE, manager, template
from support.patience import PATIENCE

EXAMPLE = Path(__file__).parents[2] / "config"
ENDLESS = 3600
"""Seconds that no test waits for."""


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Site]:
    """A place to run in, with two templates and three managers of six machines."""
    with site(tmp_path) as made:
        managers = manager("one", minimum=2) + manager("one", zone=OTHER_ZONE, minimum=1)
        (made.config / "templates.cfg").write_text(template("one") + template("two"))
        (made.config / "managers.cfg").write_text(managers + manager("two", minimum=3))
        yield made


def test_the_daemon_killed_on_the_way_creates_nothing_twice(place: Site) -> None:
    """Kill -9 once there is a template, a group, a VM, an entry; then it stands, and still does."""
    cloud = place.start_cloud()
    place.set_up()
    milestones: list[Callable[[], bool]] = [
        lambda: place.counts()[0] > 0,
        lambda: place.counts()[1] > 0,
        lambda: place.counts()[2] > 0,
        lambda: place.counts()[3] > 0,
    ]
    for reached in milestones:
        daemon = place.start_daemon()
        until(reached)
        daemon.kill()
    daemon = place.start_daemon()
    place.until_counts(2, 3, 6, 6)
    before = place.existing()
    daemon.kill()
    daemon = place.start_daemon()
    url = daemon.event("daemon.started")["url"]
    until(lambda: daemon.events("store.loaded") and place.get("/api/fleet", url).get("templates"))
    assert daemon.event("store.loaded")["instances"] == 6
    assert place.existing() == before
    calls = place.get("/_localcloud/calls")
    assert calls.get("compute.instanceGroupManagers.createInstances", 0) == 0
    assert calls.get("compute.instanceGroupManagers.deleteInstances", 0) == 0
    assert daemon.stop() == 0
    assert cloud.stop() == 0


def test_the_cloud_killed_on_the_way_comes_back_and_the_daemon_goes_on(place: Site) -> None:
    """Kill -9 of the cloud, twice, same state file and port: one fleet comes of it."""
    cloud = place.start_cloud()
    place.set_up()
    daemon = place.start_daemon()
    until(lambda: place.counts()[1] > 0)
    cloud.kill()
    cloud = place.start_cloud(port=place.port)
    until(lambda: place.counts()[2] > 0)
    cloud.kill()
    cloud = place.start_cloud(port=place.port)
    place.until_counts(2, 3, 6, 6)
    assert daemon.is_running
    assert len(daemon.events("daemon.started")) == 1
    assert cloud.stop() == 0
    assert daemon.stop() == 0


def test_a_second_signal_skips_the_waiting(place: Site) -> None:
    """A job hangs in a call; the first Ctrl-C waits for it, the second one does not."""
    place.start_cloud("--no-latency")
    place.set_up()
    insert = "compute.instanceTemplates.insert"
    place.inject(method=insert, kind="latency", seconds=ENDLESS, times=None)
    daemon = place.start_daemon(GCE_BACKEND_SHUTDOWN_SECONDS=str(ENDLESS))
    until(lambda: place.get("/_localcloud/calls").get(insert))
    url = daemon.event("daemon.started")["url"]
    daemon.process.send_signal(signal.SIGINT)
    daemon.event("daemon.stopping")
    for _ in range(50):  # more than it has to do before it would end
        place.get("/healthz", url)
    assert not daemon.events("daemon.stopped")
    assert daemon.stop(signal.SIGINT) == 0
    assert "Traceback" not in daemon.log.read_text()


def test_a_signal_while_starting_ends_it_cleanly(place: Site) -> None:
    """Its store cannot be reached yet; it ends at once, with exit code 0 and no traceback."""
    place.start_cloud("--no-latency")
    place.inject(method="*", kind="latency", seconds=ENDLESS, times=None)
    daemon = place.start_daemon()
    daemon.event("daemon.started")
    assert daemon.stop() == 0
    assert "Traceback" not in daemon.log.read_text()
    assert "never retrieved" not in daemon.log.read_text()


def test_run_local_without_a_terminal_says_when_the_fleet_is_ready(tmp_path: Path) -> None:
    """The example fleet in one process, in the log; kill -9, again with nothing new; commands."""
    with site(tmp_path) as place:
        shutil.copytree(EXAMPLE, place.config, dirs_exist_ok=True)
        daemon = place.start_local()
        ready = daemon.event("fleet.ready")
        assert ready["machines"] == 12
        signed_in = urllib.request.Request(  # noqa: S310
            ready["url"] + "/", headers={"Authorization": f"Bearer {ready['sign_in_with']}"}
        )
        with urllib.request.urlopen(signed_in, timeout=PATIENCE) as page:  # noqa: S310
            shown = page.read().decode()
        assert "Pause everything" in shown
        mp = ready["machine_provider"]
        assert f'<a href="{mp}/">Machine Provider</a>' in shown
        browser = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
        signing_in = urllib.request.Request(  # noqa: S310
            mp + "/session", data=b"to=/", headers={"Origin": mp}
        )
        with browser.open(signing_in, timeout=PATIENCE) as page:
            shown = page.read().decode()
        assert "gce-backend@local-project" in shown
        assert "Lease one of them" in shown
        names = machines(place.get("/api/fleet", ready["url"]))
        assert len(names) == 12
        daemon.kill()
        again = place.start_local()
        ready = again.event("fleet.ready")
        assert machines(place.get("/api/fleet", ready["url"])) == names
        plan = place.start("plan", "plan", "--settings", ready["settings"])
        assert plan.process.wait() == 0, plan.log.read_text()
        pause = place.start("pause", "pause", "--settings", ready["settings"])
        assert pause.process.wait() == 0, pause.log.read_text()
        status = place.start("status", "status", "--settings", ready["settings"])
        assert status.process.wait() == 0, status.log.read_text()
        assert "12 cataloged" in status.out.read_text()
        assert again.stop(signal.SIGINT) == 0
        assert not Path(ready["settings"]).exists()
        assert "Traceback" not in again.log.read_text()


def test_run_local_in_a_terminal_shows_the_way_and_one_line_when_ready(tmp_path: Path) -> None:
    """A live display, then the address; a change of the configuration is followed; then it ends."""
    with site(tmp_path) as place, contextlib.closing(Screen()) as screen:
        (place.config / "templates.cfg").write_text(template())
        (place.config / "managers.cfg").write_text(manager(minimum=2))
        daemon = screen.start(tmp_path, "run", "--local", *place.files)
        try:
            until(lambda: "machines cataloged" in screen.text(), screen.text)
            until(lambda: "ready: 2 machines" in screen.text(), screen.text)
            assert "Status: http://" in screen.text()
            assert "To sign in there and give orders: " in screen.text()
            assert "The Machine Provider: http://" in screen.text()
            (place.config / "managers.cfg").write_text(manager(minimum=3))
            until(lambda: "ready: 3 machines" in screen.text(), screen.text)
            (place.config / "managers.cfg").write_text("managers {")
            until(lambda: "config.invalid" in screen.text(), screen.text)
            daemon.send_signal(signal.SIGINT)
            assert daemon.wait(timeout=PATIENCE) == 0
        finally:
            daemon.kill()
            daemon.wait(timeout=PATIENCE)
        said = screen.text()
        assert "Stopped." in said
        assert str(tmp_path / "state.sqlite") in said
        assert "Traceback" not in said
        assert "job.finished" not in said


def machines(fleet: Any) -> set[str]:
    """The names of all machines that the daemon shows."""
    return {
        instance["name"]
        for shown in fleet["templates"]
        for revision in shown["revisions"]
        for group in revision["managers"]
        for instance in group["instances"]
    }
