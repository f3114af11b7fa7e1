"""A second daemon on the same project, as a process: same owner, own store (hole 7)."""

from __future__ import annotations

import shutil
from pathlib import Path

from processes.running import Site, site, until
from support.fleet_harness import manager, template

SECOND = {
    "GCE_BACKEND_STORE__NAMESPACE": "second",
    "GCE_BACKEND_PUBSUB__TOPIC": "second",
    "GCE_BACKEND_PUBSUB__SUBSCRIPTION": "second",
    "GCE_BACKEND_CONFIG__SOURCE": "directory",
}
ADDRESSES = ("--config-set", "services/gce-backend")


def test_hole_07_two_daemons_as_processes_leave_each_other_alone(tmp_path: Path) -> None:
    """The second one says whose the name is, and rolls its own change; the first one stands.

    It is killed in the middle, and comes back. Somebody holds a machine of the first one meanwhile.
    """
    with site(tmp_path) as place:
        (place.config / "templates.cfg").write_text(template())
        (place.config / "managers.cfg").write_text(manager(minimum=2))
        place.start_cloud("--no-latency")
        place.set_up()
        first = place.start_daemon()
        place.until_counts(1, 1, 2, 2)
        before = place.existing()
        held = lease(place)

        copied = tmp_path / "copied"
        shutil.copytree(place.config, copied)
        environment = {
            **place.environment,
            **SECOND,
            "GCE_BACKEND_CONFIG__DIRECTORY": str(copied),
        }
        urls = ["--config-service", place.url, "--machine-provider", place.url]
        made = place.start("setup-second", "setup", *ADDRESSES, *urls, **environment)
        assert made.process.wait() == 0, made.out.read_text() + made.log.read_text()
        second = place.start("second", "run", **environment)
        url = second.event("daemon.started")["url"]
        store_id = first.event("store.loaded")["store_id"]

        def conditions(at: str) -> dict[str, str]:
            found = place.get("/api/fleet", at).get("conditions", ())
            return {c["reason"]: c["message"] for c in found}

        until(lambda: store_id in conditions(url).get("NameTaken", ""), second.log.read_text)
        assert "change the template's base_name" in conditions(url)["NameTaken"]
        assert place.existing() == before
        (copied / "templates.cfg").write_text(template(machine_type="e2-medium"))
        second.event("template.created")
        second.kill()
        second = place.start("second", "run", **environment)
        url = second.event("daemon.started")["url"]
        place.until_counts(2, 2, 4, 4)
        until(lambda: not conditions(url), lambda: str(conditions(url)))
        after = place.existing()
        assert all(before[kind] <= after[kind] for kind in before)
        assert place.get("/_localcloud/state")["machine_provider"]["catalog"][held] == "LEASED"
        assert second.stop() == 0
        assert first.stop() == 0
        assert place.existing() == after


def lease(place: Site) -> str:
    """Somebody leases a machine for an hour; returns its host name."""
    wanted = {"request_id": "held", "duration": 3600, "dimensions": {"os_family": "LINUX"}}

    def leased() -> str:
        answer = place.authorized("POST", "/_ah/api/machine_provider/v1/lease", wanted)
        return str(answer.get("hostname", ""))

    until(leased)
    return leased()
