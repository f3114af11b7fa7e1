"""actions.permit_check: a permit that leaves a doubt is confirmed just before its use."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from msgspec.structs import replace
from structlog.testing import capture_logs

from gce_backend.actions.broker_turns import BROKER, BrokerTurns
from gce_backend.actions.permit_check import (
    REUSED,
    TOGETHER_SECONDS,
    found,
    kept,
    with_fresh_permits,
)
from gce_backend.engine.context import Context
from gce_backend.fleet.picture import Change
from gce_backend.model.entities import CatalogState, Instance, Lease
from gce_backend.model.keys import MachineKey
from gce_backend.model.machine_token import instance_token
from gce_backend.model.orders import Drain
from gce_backend.rules.cataloging import SETTLING_SECONDS
from gce_backend.settings.settings import DeletionSettings, MachineProviderSettings
from support.broker_messages import about, publish
from support.deletions import (
    DELETE_MACHINE,
    GET_MACHINE,
    NOT_CATALOGED,
    REMOVALS,
    TWO_TEMPLATES,
    add_late,
    denied,
    entity,
    lease_all,
    release_all,
    removals,
    settings,
    two_templates,
)
from support.fleet_harness import PROJECT, World, manager, world
from support.machines import ABSENT, CATALOGED, RECLAIMED, UNDER_WAY
from support.trial import acting_alone

HASTY = MachineProviderSettings(sweep_per_minute=600, lost_seconds=10.0)


async def _asked(w: Any) -> bool:
    return await removals(w) > 0


async def _catalog(w: World, state: str, number: int) -> bool:
    return [machine["catalog"] for machine in await w.machines()].count(state) == number


async def test_fault_32_a_lease_that_lands_between_check_and_delete_keeps_the_vm(
    tmp_path: Path,
) -> None:
    """The daemon takes the machines for free when it asks; by then one is leased."""
    async with world(tmp_path, templates=TWO_TEMPLATES, managers=two_templates()) as w:
        await w.until_states(cataloged=6)
        await w.inject(DELETE_MACHINE, kind="latency", seconds=5, times=None)
        await w.reset_calls()
        w.write_config(TWO_TEMPLATES, two_templates(other=False))
        await w.until(lambda: _asked(w))
        request = {"request_id": "late", "duration": 3600, "dimensions": {"disk_gb": 20}}
        names: set[str] = set()
        for index in range(6):
            request["request_id"] = f"late{index}"
            names.add((await w.broker("machine_provider.lease", request)).get("hostname", ""))
            await w.pass_time(0.2)
            names.add((await w.broker("machine_provider.lease", request)).get("hostname", ""))
        held = names - {""}
        assert any(name.startswith("other") for name in held)
        await w.pass_time(300)
        assert await w.fired() >= 1
        assert held <= set(await w.vms())


async def test_an_answer_older_than_a_new_entry_is_no_permit(tmp_path: Path) -> None:
    """ENTRY_NOT_FOUND arrives when the machine has been added again: it stays in the catalog."""
    async with world(tmp_path, templates=TWO_TEMPLATES, managers=two_templates(1)) as w:
        await w.inject("machine_provider.catalog.add_machines", times=None)
        await w.until_states(running=2)
        name = (await w.machines("other"))[0]["name"]
        await w.inject(REMOVALS, kind="latency", when="after", seconds=25, times=1)
        await w.reset_calls()
        w.write_config(TWO_TEMPLATES, two_templates(1, other=False))
        await w.until(lambda: _asked(w))
        w.write_config(TWO_TEMPLATES, two_templates(1))
        await w.pass_time(5)
        await w.clear_faults()
        await w.until_states(cataloged=2)
        await w.pass_time(120)
        assert name in await w.vms()
        assert await w.is_in(name, "cataloged")


async def test_a_machine_that_the_catalog_knows_again_is_not_deleted(tmp_path: Path) -> None:
    """A not-found of long ago is no permit: the Machine Provider is asked again just before."""
    none = DeletionSettings(unconfirmed_count=0, unconfirmed_share=0.0)
    async with world(tmp_path, settings=settings(none, HASTY)) as w:
        await w.until_states(cataloged=3)
        before = set(await w.vms())
        await denied(w)
        await w.until(lambda: _catalog(w, "absent", 3))
        await w.clear_faults()
        assert await w.act("/api/lift-cap", {"seconds": 300}) == 200
        await w.until_states(cataloged=3)
        assert before == set(await w.vms())
        await w.until(lambda: _catalog(w, "cataloged", 3))
        assert await w.lease() in before


@pytest.mark.parametrize("has_get", [True, False])
async def test_what_somebody_holds_is_kept_with_the_end_of_the_lease_where_the_catalog_says_it(
    tmp_path: Path, *, has_get: bool
) -> None:
    """A RECLAIMED had come wrongly. Without the catalog's word, no end of the lease is made up."""
    async with world(tmp_path) as w:
        await w.until_states(cataloged=3)
        name = await w.lease()
        await w.until(lambda: w.is_in(name, "leased"))
        leased = entity(w, name)
        assert leased is not None
        assert leased.lease is not None
        machine = next(m for m in await w.machines() if m["name"] == name)
        if not has_get:
            await w.inject(GET_MACHINE, status=404, reason="notFound", message="Not Found")
        with capture_logs() as logs:

            async def is_kept() -> bool:
                return any(line["event"] == "instance.kept" for line in logs)

            before = w.clock.now()
            await publish(w, about(machine, "RECLAIMED"))
            await w.until(is_kept)
        kept = entity(w, name)
        assert kept is not None
        assert kept.pending_deletion is None
        assert kept.lease is not None
        assert before <= kept.lease.since <= w.clock.now()
        assert kept.lease.expiration == (leased.lease.expiration if has_get else None)
        assert await w.is_in(name, "leased")
        (line,) = [line for line in logs if line["event"] == "instance.kept"]
        told = {key: line[key] for key in ("instance", "gce_id", "template", "zone", "permit")}
        assert told == {
            "instance": name,
            "gce_id": str(leased.gce_id),
            "template": "linux",
            "zone": machine["zone"],
            "permit": "reclaimed",
        }
        assert line["log_level"] == "warning"
        message = "Somebody holds it: the Machine Provider refused its removal. It is not deleted."
        shown = next(m for m in await w.machines() if m["name"] == name)
        assert [(c["reason"], c["message"]) for c in shown["conditions"]] == [("Leased", message)]


async def test_why_a_machine_was_kept_is_told_until_its_lease_ends(tmp_path: Path) -> None:
    """Also when the message that the lease has ended is lost; no job fails meanwhile."""
    async with world(tmp_path) as w:
        await w.until_states(cataloged=3)
        name = await w.lease(duration=900)
        ends = w.clock.now() + 900
        machine = next(m for m in await w.machines() if m["name"] == name)
        await publish(w, about(machine, "RECLAIMED"))
        await w.until(lambda: _tells(w, name, "Leased"))
        await w.pass_time(300)
        assert await _tells(w, name, "Leased")
        await w.inject("pubsub.*", status=503, times=None)
        await w.inject(GET_MACHINE, status=503, times=None)
        await w.pass_time(ends + 120 - w.clock.now())
        assert not await _tells(w, name, "Leased")
        assert name in await w.vms()
        jobs = {job["name"]: job for job in (await w.get("/api/jobs"))["jobs"]}
        assert jobs["delete-instances-pending-deletion"]["consecutive_failures"] == 0
        await w.clear_faults()
        await w.until(lambda: w.lacks(name))


async def _tells(w: World, name: str, reason: str) -> bool:
    shown = next((m for m in await w.machines() if m["name"] == name), {"conditions": ()})
    return reason in [condition["reason"] for condition in shown["conditions"]]


async def test_what_another_holds_under_a_machine_s_host_name_is_told_and_is_no_permit(
    tmp_path: Path,
) -> None:
    """The refusal is about an entry under another key: neither deleted, nor shown as leased."""
    async with world(tmp_path) as w:
        await w.until_states(cataloged=3)
        name = await w.lease()
        await w.until(lambda: w.is_in(name, "leased"))
        machine = next(m for m in await w.machines() if m["name"] == name)
        attributes = {"key": "key", "value": "another/instance"}
        entry = {
            "dimensions": {"hostname": name, "backend": "GCE"},
            "policies": {"backend_attributes": [attributes]},
            "state": "LEASED",
        }
        await w.inject(GET_MACHINE, kind="answer", body=entry, times=None)
        await publish(w, about(machine, "RECLAIMED"))
        await w.until(w.has_fired)
        await w.pass_time(300)
        assert name in await w.vms()
        kept = entity(w, name)
        assert kept is not None
        assert (kept.lease, kept.deletion) == (None, None)
        shown = next(m for m in await w.machines() if m["name"] == name)
        assert [c["message"] for c in shown["conditions"]] == [REUSED]


def test_what_is_found_in_the_catalog_is_a_change_of_what_is_there() -> None:
    """An entity that is gone meanwhile stays gone."""
    assert found(CatalogState.CATALOGED)(ABSENT) == CATALOGED
    assert found(CatalogState.CATALOGED)(None) is None


def test_a_lease_is_of_the_vm_that_was_asked_about() -> None:
    """While the answer was on its way, another VM may have got the name: it is not leased."""
    lease = Lease(1000.0, 2000.0)
    held = kept(CATALOGED, lease)(CATALOGED)
    assert held is not None
    assert held.lease == lease
    another = replace(CATALOGED, gce_id=(CATALOGED.gce_id or 0) + 1)
    assert kept(CATALOGED, lease)(another) is another


@pytest.mark.parametrize(
    ("error", "reason", "message"),
    [
        ("LEASED", "Leased", "The Machine Provider refused its removal a moment ago."),
        (
            "UNSPECIFIED_REASON",
            "Unconfirmed",
            "The Machine Provider did not confirm its deletion: UNSPECIFIED_REASON",
        ),
    ],
)
async def test_an_answer_that_neither_allows_nor_denies_is_told_and_asked_for_again(
    tmp_path: Path, error: str, reason: str, message: str
) -> None:
    """The machine was given back, and the Machine Provider is not of one mind about it."""
    async with world(tmp_path) as w:
        await w.until_states(cataloged=3)
        name = await w.lease()
        assert w.daemon.context is not None
        key = next(key for key in w.daemon.context.fleet.instances if key.name == name)
        attribute = {"key": "key", "value": instance_token(PROJECT, key)}
        entry = {
            "dimensions": {"hostname": name, "backend": "GCE"},
            "policies": {"backend_attributes": [attribute]},
            "state": "AVAILABLE",
        }
        await w.inject(GET_MACHINE, kind="answer", body=entry, times=None)
        await w.inject(DELETE_MACHINE, kind="answer", body={"error": error}, times=None)
        await w.release()
        await w.until(lambda: w.is_in(name, "pending-deletion"))
        await w.reset_calls()
        await w.pass_time(120)
        assert (await w.calls())[DELETE_MACHINE] > 1
        assert name in await w.vms()
        waiting = entity(w, name)
        assert waiting is not None
        assert waiting.pending_deletion is not None
        assert (waiting.lease, waiting.deletion) == (None, None)
        shown = next(m for m in await w.machines() if m["name"] == name)
        assert [(c["reason"], c["message"]) for c in shown["conditions"]] == [(reason, message)]
        await w.clear_faults()
        await w.until(lambda: w.lacks(name))


async def test_what_a_slow_machine_provider_has_confirmed_does_not_wait_for_the_rest(
    tmp_path: Path,
) -> None:
    """The first answer takes as long as answers are collected: its machine is deleted first."""
    async with world(tmp_path) as w:
        await w.until_states(cataloged=3)
        names = set(await lease_all(w, 3))
        await w.inject(DELETE_MACHINE, kind="latency", seconds=TOGETHER_SECONDS, times=None)
        await release_all(w, 3)

        async def gone() -> bool:
            return not names <= set(await w.vms())

        with capture_logs() as logs:
            assert await w.until(gone) < 2 * TOGETHER_SECONDS
            await w.until_states(cataloged=3)
        assert not names & set(await w.vms())
        assert "job.failed" not in {line["event"] for line in logs}


async def test_a_machine_whose_addition_may_still_take_effect_is_not_asked_about(
    tmp_path: Path,
) -> None:
    """Its entry was removed, but an addition is under way again: an answer would prove nothing."""
    async with world(tmp_path) as w:
        await w.until_states(cataloged=3)
        assert w.daemon.context is not None
        key = next(iter(w.daemon.context.fleet.instances))
        now = w.clock.now()

        def unsettled(instance: Instance | None) -> Instance | None:
            assert instance is not None
            removed = replace(instance, catalog=CatalogState.REMOVED, drain=Drain("", now))
            return replace(removed, resent=True, adding_since=now)

        await w.broker(
            "catalog.delete_machine", {"dimensions": {"hostname": key.name, "backend": "GCE"}}
        )
        await w.reset_calls()
        await w.daemon.context.fleet.change([Change(key, unsettled)])
        await w.pass_time(SETTLING_SECONDS - 30)
        assert await removals(w) == 0
        assert key.name in await w.vms()
        await w.until(lambda: w.lacks(key.name))


async def test_a_machine_without_an_entry_is_kept_to_the_end_of_its_known_lease(
    tmp_path: Path,
) -> None:
    """The catalog has lost the entry, as after a restore; who leased the machine still uses it."""
    async with world(tmp_path) as w:
        await w.until_states(cataloged=3)
        assert w.daemon.context is not None
        key = next(iter(w.daemon.context.fleet.instances))
        now = w.clock.now()

        def leased(instance: Instance | None) -> Instance | None:
            assert instance is not None
            removed = replace(instance, catalog=CatalogState.REMOVED, drain=Drain("", now))
            return replace(removed, lease=Lease(now, now + 600))

        await denied(w)
        await w.daemon.context.fleet.change([Change(key, leased)])
        await w.until(w.has_fired)
        await w.pass_time(300)
        assert key.name in await w.vms()
        message = "The catalog does not hold it, but its last known lease has not ended."
        shown = next(m for m in await w.machines() if m["name"] == key.name)
        assert ("Leased", message) in [(c["reason"], c["message"]) for c in shown["conditions"]]
        await w.until(lambda: w.lacks(key.name), within=900)
        assert w.clock.now() >= now + 600


class Case(NamedTuple):
    """A machine as the store has it, the catalog's answers, and what follows.

    Attributes:
        known: the entity, but for id and link.
        entry: the attributes of the entry that `get` returns, and its state; None: there is none;
            NO_GET: the server has no `get`.
        error: what `delete_machine` answers; None: it removed the entry.
        permits: the permits that are confirmed, in order.
        reason: of the machine's condition; "" when there is none.
        after: its state in the catalog then.
        get: whether the catalog is to be asked about its entry.
    """

    known: Instance
    entry: tuple[dict[str, str], str] | None
    error: str | None
    permits: tuple[CatalogState | None, ...]
    reason: str
    after: CatalogState
    get: bool = True


OURS = {"key": "KEY", "gce_id": "7"}
EARLIER = {"key": "KEY", "gce_id": "6"}
THEIRS = {"key": "another", "gce_id": "7"}
NEVER = Instance(gce_id=7, url="u")
REFUSED = replace(NEVER, catalog=CatalogState.REFUSED)
LOST = replace(NEVER, catalog=CatalogState.ABSENT)
REMOVED = replace(NEVER, catalog=CatalogState.REMOVED)
EMPTY = replace(LOST, gce_id=None, missing_since=1.0)
ENDING = replace(LOST, deletion=UNDER_WAY)
RUNNING = Lease(1.0, None)
LOST_LATE = replace(LOST, lease=Lease(1.0, 2.0))
GONE = "ENTRY_NOT_FOUND"
NOT_OFFERED = {"status": 404, "reason": "notFound", "message": "Not Found"}
NO_GET = ({"key": ""}, "")
FREE, HELD = "AVAILABLE", "LEASED"

CASES = {
    "never known": Case(NEVER, None, GONE, (None,), "", NEVER.catalog),
    "unknown": Case(LOST, None, GONE, (None,), "", LOST.catalog),
    "set aside": Case(REFUSED, None, GONE, (None,), "", REFUSED.catalog),
    "no get": Case(LOST, NO_GET, GONE, (None,), "", LOST.catalog),
    "no get, set aside": Case(REFUSED, NO_GET, GONE, (), "HostnameReuse", REFUSED.catalog),
    "was added meanwhile": Case(NEVER, None, None, (CatalogState.REMOVED,), "", NEVER.catalog),
    "known again": Case(LOST, (OURS, FREE), None, (), "", CatalogState.CATALOGED),
    "lease is over": Case(LOST_LATE, None, GONE, (None,), "", LOST.catalog),
    "held": Case(LOST_LATE, (OURS, HELD), None, (), "Leased", CatalogState.CATALOGED),
    "another key": Case(LOST, (THEIRS, FREE), None, (), "HostnameReuse", LOST.catalog),
    "another VM": Case(LOST, (EARLIER, FREE), None, (), "HostnameReuse", LOST.catalog),
    "deletion began": Case(ENDING, (OURS, FREE), None, (CatalogState.REMOVED,), "", LOST.catalog),
    "deletion, another": Case(ENDING, (THEIRS, FREE), None, (), "HostnameReuse", LOST.catalog),
    "no VM": Case(EMPTY, (EARLIER, FREE), None, (CatalogState.REMOVED,), "", LOST.catalog),
    "no VM, another": Case(EMPTY, (THEIRS, FREE), None, (), "HostnameReuse", LOST.catalog),
    "no VM, held": Case(EMPTY, (OURS, HELD), "LEASED", (), "Leased", LOST.catalog),
    "removed": Case(REMOVED, None, GONE, (None,), "", REMOVED.catalog),
    "removed, no get": Case(REMOVED, NO_GET, GONE, (None,), "", REMOVED.catalog),
    "removed again": Case(
        REMOVED, (OURS, FREE), None, (CatalogState.REMOVED,), "", REMOVED.catalog
    ),
    "removed, another key": Case(
        REMOVED, (THEIRS, FREE), None, (), "HostnameReuse", REMOVED.catalog
    ),
    "removed, another VM": Case(
        REMOVED, (EARLIER, FREE), None, (), "HostnameReuse", REMOVED.catalog
    ),
    "removed, no VM": Case(
        replace(REMOVED, gce_id=None, missing_since=1.0),
        (EARLIER, FREE),
        None,
        (CatalogState.REMOVED,),
        "",
        REMOVED.catalog,
    ),
    "removed, leased again": Case(
        REMOVED, (OURS, HELD), "LEASED", (), "Leased", CatalogState.CATALOGED
    ),
    "removed, free again": Case(REMOVED, (OURS, FREE), "LEASED", (), "Leased", REMOVED.catalog),
    "removed, another's": Case(
        REMOVED, (THEIRS, HELD), "LEASED", (), "HostnameReuse", REMOVED.catalog
    ),
    "lease runs": Case(replace(REMOVED, lease=RUNNING), None, GONE, (), "Leased", REMOVED.catalog),
    "no clear answer": Case(
        REMOVED, (OURS, FREE), "UNSPECIFIED_REASON", (), "Unconfirmed", REMOVED.catalog
    ),
    "reclaimed": Case(
        replace(RECLAIMED, gce_id=7),
        None,
        GONE,
        (None,),
        "",
        CATALOGED.catalog,
        get=False,
    ),
}


async def test_what_each_answer_of_the_catalog_permits(tmp_path: Path) -> None:
    """Whatever the store says, and whatever the catalog answers: the table says what follows."""
    async with world(tmp_path, managers=manager(minimum=1)) as w:
        await w.until_states(cataloged=1)
        context = await acting_alone(w)
        [key] = context.fleet.instances
        for name, case in CASES.items():
            context.conditions.clear(key)
            await context.fleet.change([Change(key, _becomes(case.known))])
            await w.clear_faults()
            await w.inject(f"{DELETE_MACHINE}s", status=404, reason="notFound", times=None)
            if case.entry == NO_GET:
                await w.inject(GET_MACHINE, times=None, **NOT_OFFERED)
            elif case.entry is None:
                await w.inject(GET_MACHINE, times=None, **NOT_CATALOGED)
            else:
                attributes, state = case.entry
                told = {**attributes, "key": attributes["key"].replace("KEY", _token(context, key))}
                listed = [{"key": k, "value": v} for k, v in told.items()]
                policies = {"backend_attributes": listed}
                entry = {**_named(key), "policies": policies, "state": state}
                await w.inject(GET_MACHINE, kind="answer", body=entry, times=None)
            answer: dict[str, Any] = {"machine_deletion_request": _named(key)}
            answer |= {"error": case.error} if case.error else {}
            await w.inject(DELETE_MACHINE, kind="answer", body=answer, times=None)
            await w.reset_calls()
            checked = await with_fresh_permits(context, [key], BrokerTurns(context))
            reasons = [condition.reason for condition in context.conditions.of(key)]
            after = context.fleet.instances[key].catalog
            found = (tuple(checked.permits.values()), "".join(reasons), after)
            assert found == (case.permits, case.reason, case.after), name
            assert ((await w.calls())[GET_MACHINE] > 0) is case.get, name
            messages = [condition.message for condition in context.conditions.of(key)]
            if case.reason == "HostnameReuse":
                assert messages == [REUSED]
            if name == "no VM, held":
                assert messages == [
                    "Somebody holds it, but its VM is gone. It is deleted after the lease ends."
                ]
            held = bool(checked.outcome.facts.get("held"))
            assert held is (case.reason not in {"", "HostnameReuse"} or name == "known again"), name
            assert checked.left == (), name
        context.conditions.note(BROKER, "Unavailable", "It did not answer.")
        await with_fresh_permits(context, [], BrokerTurns(context))
        assert context.conditions.of(BROKER), "nobody has asked it"
        context.conditions.clear(key)
        await with_fresh_permits(context, [key], BrokerTurns(context))
        assert not context.conditions.of(BROKER), "it has answered"
        context.conditions.clear(key)
        context.conditions.back_off(BROKER, "Unavailable", "It does not answer.")
        await w.reset_calls()
        checked = await with_fresh_permits(context, [key], BrokerTurns(context))
        assert (checked.permits, (await w.calls())[DELETE_MACHINE]) == ({}, 0)


async def test_what_has_the_name_of_a_removed_machine_since_is_not_taken_out(
    tmp_path: Path,
) -> None:
    """Its entry was removed; a stranger's, free, stays. Our Machine Provider needs one call."""
    async with world(tmp_path, managers=manager(minimum=1)) as w:
        await w.until_states(cataloged=1)
        context = await acting_alone(w)
        [key] = context.fleet.instances
        own = {"key": _token(context, key), "gce_id": str(context.fleet.instances[key].gce_id)}
        removed = replace(context.fleet.instances[key], catalog=CatalogState.REMOVED)
        await context.fleet.change([Change(key, _becomes(removed))])
        for attributes in ({"key": "another"}, {**own, "gce_id": "6"}, own):
            await w.broker("catalog.delete_machine", _named(key))
            await add_late(w, key.name, **attributes)
            context.conditions.clear(key)
            await w.reset_calls()
            checked = await with_fresh_permits(context, [key], BrokerTurns(context))
            calls = await w.calls()
            assert (await removals(w), calls[GET_MACHINE]) == (1, 0)
            reasons = [condition.reason for condition in context.conditions.of(key)]
            if attributes == own:
                assert (checked.permits, reasons) == ({key: CatalogState.REMOVED}, [])
                assert (await w.catalog()).get(key.name) in {None, "DELETED"}
            else:
                assert (checked.permits, reasons) == ({}, ["HostnameReuse"])
                assert (await w.catalog())[key.name] in {"NEW", "AVAILABLE"}


def _becomes(known: Instance) -> Callable[[Instance | None], Instance]:
    return lambda _: known


def _named(key: MachineKey) -> dict[str, Any]:
    return {"dimensions": {"backend": "GCE", "hostname": key.name}}


def _token(context: Context, key: MachineKey) -> str:
    return instance_token(context.project, key)
