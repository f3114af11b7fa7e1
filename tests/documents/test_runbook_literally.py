"""Alerts are provoked, the runbook's commands are run as the page has them, and the alerts end.

A story is lived in simulated time. promtool then says which alerts fire in each of its phases.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest
import structlog
from click.testing import CliRunner

from documents.test_docs_runbook import ALERTS, SECTIONS
from gce_backend.base.clock import SystemClock
from gce_backend.cli import main
from gce_backend.daemon.local import settings_file
from gce_backend.localcloud.cloud import CloudOptions
from gce_backend.settings.settings import (
    FetchSettings,
    MachineProviderSettings,
    Settings,
    StoreSettings,
    WebhookSettings,
)
from stories.test_webhooks import receiver
from support.alerting import Prometheus, commands_of, wrong_alerts
from support.broker_messages import publish, wire
from support.every_command import ELSEWHERE, READS, commands
from support.fleet_harness import OTHER_ZONE, PROJECT, ZONE, World, manager, template, world
from support.metrics_story import NOBODYS
from support.outside import abandon, reaper
from support.plain_texts import faults_in, faults_on_pages
from support.simulation import VirtualTimeLoop

SOON = Settings(
    fetch=FetchSettings(resync_seconds=60.0),
    machine_provider=MachineProviderSettings(sweep_per_minute=600),
)
OFTEN = msgspec.structs.replace(SOON, store=StoreSettings(resync_seconds=300.0))
READ = 70.0
"""Seconds within which a daemon has read an order."""
A_DAY = 86400.0
TRIED_AGAIN = 700.0
"""Seconds within which a daemon tries again whatever has failed."""


class Reader(Prometheus):
    """Prometheus, and somebody who reads every page in each phase and looks for slips."""

    async def see(self, *expected: str, minutes: int = 30) -> None:
        """Watches a phase, and reads the pages."""
        await super().see(*expected, minutes=minutes)
        if "GceBackendDown" not in expected:
            assert await faults_on_pages(self.w) == []


class Operator:
    """Somebody who is woken, opens the section of the alert, and runs what it says.

    Attributes:
        followed: the anchors of the sections whose commands were run.
    """

    def __init__(self, w: World, directory: Path) -> None:
        self._w = w
        self._settings = directory / "settings.toml"
        self.followed: set[str] = set()

    async def follows(self, anchor: str, **values: str) -> str:
        """Runs each command of a section, in order; returns what they print.

        Args:
            anchor: the section's.
            values: what stands for the words in capitals.
        """
        self.followed.add(anchor)
        said = ""
        for command in commands_of(SECTIONS[anchor]):
            words = [values.get(word, word) for word in command.replace('"..."', "why").split()]
            assert not [word for word in words if word.isupper()], f"which {words}?"
            said += await self.runs(*words)
        return said

    async def reads_all(self, **values: str) -> None:
        """Runs every command that leaves the fleet as it is, and reads what it says."""
        assert {" ".join(words) for words in commands()} == READS.keys() | ELSEWHERE.keys()
        for name, arguments in READS.items():
            words = (*name.split(), *(values.get(word, word) for word in arguments))
            assert await self.runs(*words), name

    async def runs(self, *words: str) -> str:
        """Runs a command; returns what it prints."""
        self._settings.write_text(settings_file(self._w.settings, self._w.daemon.url), "utf-8")
        environment = {"GCE_BACKEND_SETTINGS": str(self._settings)}
        now = self._w.clock.now()
        logging_as_before = structlog.get_config()  # a command says how to log
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(SystemClock, "now", lambda _: now)
            done = await asyncio.to_thread(
                CliRunner().invoke, main, words, input="y\n", env=environment
            )
        structlog.configure(**logging_as_before)
        assert done.exception is None or isinstance(done.exception, SystemExit), done.output
        assert "Usage:" not in done.output, done.output
        assert faults_in(done.output) == []
        return done.output


Story = Callable[[World, Operator, Prometheus], Awaitable[None]]


async def orders(w: World, operator: Operator, prometheus: Prometheus) -> None:
    """Fleet, a part of it and a roll-out are paused; messages, tokens, a webhook are wrong."""
    tokens = w.config_dir / "tokens.toml"
    tokens.write_text("", "utf-8")
    async with receiver() as (url, _):
        pass  # nobody listens there now
    http = msgspec.structs.replace(w.settings.http, tokens_file=tokens)
    webhooks = {"slack": WebhookSettings(url=f"{url}/slack")}
    w.settings = msgspec.structs.replace(w.settings, http=http, webhooks=webhooks)
    await w.restart_daemon()
    await w.pass_time(130)
    await prometheus.see()
    tokens.write_text("[alice]", "utf-8")
    await operator.runs("pause", "--reason", "a look")
    await operator.runs("pause", "--template", "linux", "--zone", ZONE)
    await operator.runs("rollout", "pause", "linux", "--reason", "a look")
    w.jump(A_DAY)
    await publish(w, wire("GARBAGE", {}))
    await w.pass_time(READ)
    await prometheus.see(*STORIES["orders"].alerts, minutes=130)
    await operator.follows("the-fleet-is-paused")
    await operator.follows("a-part-of-the-fleet-is-paused", T="linux", Z=ZONE)
    await operator.follows("a-roll-out-is-paused-or-undone", NAME="linux")
    await operator.follows("messages-are-set-aside")
    await operator.follows("the-newest-file-of-tokens-is-not-used")
    tokens.write_text("", "utf-8")
    await operator.follows("a-webhook-does-not-take-notices")
    async with receiver(port=int(url.rpartition(":")[2])) as (_, heard):
        await w.pass_time(200)
    assert "SetAside" in str(heard["slack"])
    await prometheus.see(minutes=70)


async def configurations(w: World, operator: Operator, prometheus: Prometheus) -> None:
    """One is broken, another names no manager, and a third needs a permission that is missing."""
    await prometheus.see()
    w.write_config(template(), "managers {")
    await w.pass_time(READ)
    await prometheus.see("GceBackendConfigurationInvalid")
    said = await operator.follows("the-newest-configuration-is-not-used", DIR=str(w.config_dir))
    assert "managers.cfg:1" in said
    w.write_config(template(), manager(minimum=3))
    await w.pass_time(READ)
    await prometheus.see()
    w.write_config(template(), "")
    await w.pass_time(READ)
    await prometheus.see("GceBackendConfigurationHeld")
    revision = (await w.get("/api/control"))["held_revision"]
    await operator.follows("a-configuration-is-held", REVISION=revision)
    await w.pass_time(READ)
    await w.inject("compute.instanceTemplates.insert", status=403, reason="forbidden", times=None)
    w.write_config(template("other"), manager("other", minimum=0))
    await w.pass_time(300)
    await prometheus.see("GceBackendPermissionDenied")
    await operator.follows("a-permission-is-missing")
    await w.clear_faults()
    await w.pass_time(TRIED_AGAIN)
    await prometheus.see()


async def capacity(w: World, operator: Operator, prometheus: Prometheus) -> None:
    """A zone has no VMs of the kind; a permission is missing in another."""
    await w.inject("*", kind="stockout", zone=OTHER_ZONE, times=None)
    w.write_config(template(), manager(minimum=3) + manager("linux", OTHER_ZONE, 2))
    await w.pass_time(300)
    await prometheus.see("GceBackendNoRoom", "GceBackendFleetUnderMinimum", minutes=80)
    name = next(it["name"] for it in await w.machines() if it["state"] == "creating")
    assert "europe-west1-b" in await operator.follows("there-are-too-few-machines", NAME=name)
    await operator.follows("a-zone-has-no-capacity")
    await w.clear_faults()
    await w.until_states(cataloged=5, within=2 * TRIED_AGAIN)
    await prometheus.see()


async def vms(w: World, operator: Operator, prometheus: Prometheus) -> None:
    """A held one is stopped, one is taken out of its group, and a template is nobody's."""
    await prometheus.see()
    held = await w.lease()
    taken = next(name for name in await w.catalog() if name != held)
    await w.compute("POST", f"zones/{ZONE}/instances/{held}/stop")
    await w.inject("compute.instances.delete", status=403, reason="forbidden", times=None)
    await abandon(w, taken)
    ours = f"{NOBODYS['description']} store={(await w.mark()).store}"
    await w.compute("POST", "global/instanceTemplates", {**NOBODYS, "description": ours})
    machine = next(it for it in await w.machines() if it["name"] not in {held, taken})
    await write_catalog_state(w, machine, "a-state-of-the-next-release")
    await w.restart_daemon()
    await w.pass_time(300)
    await prometheus.see(*STORIES["vms"].alerts, minutes=45)
    await operator.reads_all(NAME=held, CONFIG=str(w.config_dir), DIR=str(w.config_dir / "agent"))
    assert "Somebody holds it" in await operator.follows("machines-have-stopped", NAME=held)
    await w.compute("POST", f"zones/{ZONE}/instances/{held}/start")
    assert "abandoned" in await operator.follows("machines-have-vanished", NAME=taken)
    await operator.follows("vms-were-taken-out-of-their-groups")
    said = str((await w.get("/api/status"))["problems"])
    told = re.search(r"gcloud compute instances delete (\S+) --zone (\S+) --project ([\w-]+)", said)
    assert told, said
    assert (told[1], told[3]) == (taken, PROJECT)
    await w.clear_faults()  # the operator may do what the daemon may not
    await w.compute("DELETE", f"zones/{told[2]}/instances/{told[1]}")
    await operator.follows("a-stored-entity-cannot-be-understood")
    await write_catalog_state(w, machine, "cataloged")
    unknown = "a-resource-carries-the-daemons-mark-but-is-not-tracked"
    assert "deleted" in await operator.follows(unknown, NAME=str(NOBODYS["name"]))
    await w.pass_time(TRIED_AGAIN)
    await prometheus.see(minutes=60)


async def write_catalog_state(w: World, machine: dict[str, Any], state: str) -> None:
    """Somebody edits the entity of a machine."""
    places = (
        ("InstanceTemplate", machine["template"]),
        ("InstanceTemplateRevision", machine["revision"]),
        ("InstanceGroupManager", machine["zone"]),
        ("Instance", machine["name"]),
    )
    path = [{"kind": kind, "name": name} for kind, name in places]
    key = {"partitionId": {"projectId": PROJECT}, "path": path}
    found = await w.call("POST", f"/v1/projects/{PROJECT}:lookup", {"keys": [key]})
    (entity,) = (it["entity"] for it in found["found"])
    entity["properties"]["catalog"] = {"stringValue": state}
    body = {"mode": "NON_TRANSACTIONAL", "mutations": [{"upsert": entity}]}
    await w.call("POST", f"/v1/projects/{PROJECT}:commit", body)


async def catalog(w: World, operator: Operator, prometheus: Prometheus) -> None:
    """The catalog forgets a machine, and has the host name of another for somebody else."""
    await prometheus.see()
    lost = next(iter(await w.catalog()))
    await w.broker("catalog.delete_machine", _dimensions(lost))
    await w.pass_time(130)
    await prometheus.see("GceBackendLostMachines")
    await operator.follows("the-catalog-has-forgotten-machines")
    await operator.runs("resume")
    await w.until(lambda: w.lacks(lost), within=2 * TRIED_AGAIN)
    await w.until_states(cataloged=3)
    await prometheus.see()
    w.write_config(template(), manager(minimum=4))
    known = set(await w.vms())
    await w.until(lambda: w.has_vms(4))
    (taken,) = set(await w.vms()) - known
    theirs = {**_dimensions(taken), "policies": {}}
    theirs["dimensions"] = {**theirs["dimensions"], "os_family": "LINUX"}
    assert "error" not in await w.broker("catalog.add_machine", theirs)
    await w.until_states(cataloged=3, set_aside=1)
    await prometheus.see("GceBackendRefusedMachines")
    await operator.follows("machines-are-set-aside")
    await w.broker("catalog.delete_machine", _dimensions(taken))
    await w.until_states(cataloged=4, within=2 * TRIED_AGAIN)
    await prometheus.see()


def _dimensions(hostname: str) -> dict[str, Any]:
    return {"dimensions": {"backend": "GCE", "hostname": hostname}}


async def deletions(w: World, operator: Operator, prometheus: Prometheus) -> None:
    """Somebody approves a configuration that removes everything."""
    w.write_config(template(), "")
    await w.pass_time(READ)
    revision = (await w.get("/api/control"))["held_revision"]
    await operator.runs("approve", revision)
    await w.pass_time(300)
    await prometheus.see("GceBackendDeletionsHeld")
    await operator.follows("deletions-are-held")
    await operator.runs("resume")
    await w.until(w.has_no_vms)
    await prometheus.see()


async def services(w: World, operator: Operator, prometheus: Prometheus) -> None:
    """Datastore does not answer, then the daemon is gone."""
    await w.inject("datastore.*", status=503, times=None)
    lease = {"request_id": "r1", "duration": 7200, "dimensions": {"os_family": "LINUX"}}
    await w.broker("machine_provider.lease", lease)
    await w.pass_time(TRIED_AGAIN)
    alerts = STORIES["services"].alerts
    await prometheus.see(*(alert for alert in alerts if alert != "GceBackendDown"))
    for anchor in STORIES["services"].anchors():
        await operator.follows(anchor)
    await w.clear_faults()
    await w.pass_time(200)
    await prometheus.see()
    await w.crash_daemon()
    await prometheus.see("GceBackendDown")
    await w.start_daemon()
    await w.until_states(cataloged=2, leased=1)
    await prometheus.see()


async def leaders(w: World, operator: Operator, prometheus: Prometheus) -> None:
    """The leader's host is slow and the project's quota is used up; then none can write."""
    await w.inject("compute.*", status=403, reason="rateLimitExceeded", times=None)
    slow = asyncio.create_task(_stall_again_and_again())
    await w.pass_time(130)
    await prometheus.see("GceBackendEventLoopLate", "GceBackendCallBudgetExhausted")
    await operator.follows("everything-is-slow")
    await operator.follows("calls-to-compute-wait-for-their-turn")
    slow.cancel()
    await w.clear_faults()
    await w.pass_time(READ)
    await prometheus.see()
    await w.inject("datastore.*", status=503, times=None)
    await w.pass_time(READ)
    await prometheus.see("GceBackendNoLeader", minutes=9)
    await operator.follows("no-daemon-leads")
    await w.clear_faults()
    await w.until_states(cataloged=3)
    await prometheus.see()


async def _stall_again_and_again() -> None:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualTimeLoop)
    while True:
        await asyncio.sleep(5)
        loop.stall(2)


async def losses(w: World, operator: Operator, prometheus: Prometheus) -> None:
    """Somebody deletes the VMs again and again, and then new ones do not boot."""
    async with reaper(w, 10.0):
        await w.until(lambda: _is_told(w, "MeltDown"))
        await prometheus.see("GceBackendMeltDown", "GceBackendDeletionsHeld", minutes=20)
        ended = await operator.follows("vms-vanish-again-and-again")
        assert "missing" in ended
    await w.until_states(cataloged=3, within=1000)
    w.cloud.options = msgspec.structs.replace(w.cloud.options, boot_seconds=1e7)
    w.write_config(template(), manager(minimum=6, boot_seconds=60))
    await w.until(lambda: _is_told(w, "BootFailing"), within=900)
    alerts = STORIES["losses"].alerts
    await prometheus.see(*alerts, "GceBackendFleetUnderMinimum", minutes=45)
    name = next(it["name"] for it in await w.machines() if it["state"] in {"creating", "starting"})
    assert "fetch-instances" in await operator.follows("a-machine-does-not-come-up", NAME=name)
    w.cloud.options = CloudOptions()
    await w.until_states(cataloged=6, within=1800)
    await w.pass_time(2000)
    await prometheus.see()


async def _is_told(w: World, reason: str) -> bool:
    problems = (await w.get("/api/status"))["problems"]
    return any(found["reason"] == reason for found in problems)


class Told(NamedTuple):
    """A story: how it is lived, the alerts that it provokes, its world and its machines."""

    live: Story
    alerts: tuple[str, ...]
    world: dict[str, Any]
    machines: int = 3

    def anchors(self) -> set[str]:
        """The runbook's sections of its alerts."""
        return {
            rule["annotations"]["runbook"].partition("#")[2]
            for rule in ALERTS
            if rule["alert"] in self.alerts
        }


STORIES = {
    "orders": Told(
        orders,
        (
            "GceBackendPaused",
            "GceBackendPartPaused",
            "GceBackendRolloutHeld",
            "GceBackendMessagesSetAside",
            "GceBackendTokensInvalid",
            "GceBackendWebhookFailing",
        ),
        {},
    ),
    "configurations": Told(
        configurations,
        (
            "GceBackendConfigurationInvalid",
            "GceBackendConfigurationHeld",
            "GceBackendPermissionDenied",
        ),
        {},
    ),
    "capacity": Told(capacity, ("GceBackendNoRoom", "GceBackendFleetUnderMinimum"), {}),
    "vms": Told(
        vms,
        (
            "GceBackendStoppedMachines",
            "GceBackendMissingMachines",
            "GceBackendAbandonedMachines",
            "GceBackendUntracked",
            "GceBackendCorruptEntities",
        ),
        {"managers": manager(minimum=11), "settings": OFTEN},
        11,
    ),
    "catalog": Told(
        catalog,
        ("GceBackendLostMachines", "GceBackendRefusedMachines"),
        {"options": msgspec.structs.replace(CloudOptions().instant(), boot_seconds=30.0)},
    ),
    "deletions": Told(
        deletions, ("GceBackendDeletionsHeld",), {"managers": manager(minimum=10)}, 10
    ),
    "leaders": Told(
        leaders,
        (
            "GceBackendNoLeader",
            "GceBackendEventLoopLate",
            "GceBackendCallBudgetExhausted",
        ),
        {"settings": msgspec.structs.replace(SOON, store=StoreSettings(leader_election=True))},
    ),
    "losses": Told(
        losses,
        ("GceBackendMeltDown", "GceBackendBootFailing"),
        {"options": CloudOptions()},
    ),
    "services": Told(
        services,
        (
            "GceBackendNotReady",
            "GceBackendJobFailing",
            "GceBackendJobStale",
            "GceBackendCallsFailing",
            "GceBackendMessagesWait",
            "GceBackendDown",
        ),
        {},
    ),
}


@pytest.mark.parametrize("name", STORIES)
async def test_the_runbook_ends_the_alerts(tmp_path: Path, name: str) -> None:
    """They fire when it is time, no other does, and none is left when the section was followed."""
    story = STORIES[name]
    async with world(tmp_path, **{"settings": SOON, **story.world}) as w:
        operator, prometheus = Operator(w, tmp_path), Reader(w, name)
        await w.until_states(cataloged=story.machines)
        await w.pass_time(130)
        await story.live(w, operator, prometheus)
    assert operator.followed == story.anchors()
    assert wrong_alerts([prometheus.case()], tmp_path) == ""


def test_every_alert_is_provoked() -> None:
    """A new alert needs a story, too."""
    provoked = [alert for story in STORIES.values() for alert in story.alerts]
    assert len(provoked) == len(set(provoked))
    daemons = {rule["alert"] for rule in ALERTS if rule["alert"].startswith("GceBackend")}
    assert set(provoked) == daemons
