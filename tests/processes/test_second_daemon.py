"""A second daemon on the same project, as a process: same owner, own store (hole 7)."""

from __future__ import annotations

import shutil
from pathlib import Path

from processes.running import site, until
from support.fleet_harness import manager, template

SECOND = {
    "GCE_BACKEND_STORE__NAMESPACE": "second",
    "GCE_BACKEND_PUBSUB__TOPIC": "second",
    "GCE_BACKEND_PUBSUB__SUBSCRIPTION": "second",
    "GCE_BACKEND_CONFIG__SOURCE": "directory",
}
ADDRESSES = ("--config-set", "services/gce-backend")


def test_hole_07_two_daemons_as_processes_leave_each_other_alone(tmp_path: Path) -> None:
    """The second one says whose the name is, and rolls its own change; the first one stands."""
    with site(tmp_path) as place:
        (place.config / "templates.cfg").write_text(template())
        (place.config / "managers.cfg").write_text(manager(minimum=2))
        place.start_cloud("--no-latency")
        place.set_up()
        first = place.start_daemon()
        place.until_counts(1, 1, 2, 2)
        before = place.existing()

        copied = tmp_path / "copied"
        shutil.copytree(place.config, copied)
        environment = {
            **place.environment,
            **SECOND,
            "GCE_BACKEND_CONFIG__DIRECTORY": str(copied),
        }
        urls = ["--config-service", place.url, "--machine-provider", place.url]
        made = place.start("setup-second", "setup", *ADDRESSES, *urls, **environment)
        until(lambda: made.process.poll() is not None)
        assert made.process.returncode == 0, made.out.read_text() + made.log.read_text()
        second = place.start("second", "run", **environment)
        url = second.event("daemon.started")["url"]
        store_id = first.event("store.loaded")["store_id"]

        def taken() -> bool:
            conditions = place.get("/api/fleet", url).get("conditions", ())
            return any(c["reason"] == "NameTaken" and store_id in c["message"] for c in conditions)

        until(taken, second.log.read_text)
        assert place.existing() == before
        (copied / "templates.cfg").write_text(template(machine_type="e2-medium"))
        place.until_counts(2, 2, 4, 4)
        after = place.existing()
        assert all(before[kind] <= after[kind] for kind in before)
        assert second.stop() == 0
        assert first.stop() == 0
        assert place.existing() == after
