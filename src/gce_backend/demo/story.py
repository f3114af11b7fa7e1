"""The story: what happens, and what must be true then."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import partial

from gce_backend.base.errors import RemoteError
from gce_backend.demo.configuration import LARGE, MEDIUM, SMALL, Template
from gce_backend.demo.stage import DemoFailedError, Picture, Stage, Vm, failure

TITLES = (
    "The fleet appears",
    "Machines are leased",
    "A lease ends",
    "A job waits for machines",
    "A template changes",
    "A template is removed",
    "Everything is removed",
)
LEASES = ("demo-1", "demo-2", "demo-3")
JOB = "demo-job"
LASTING = {
    "Configuration",
    "ConfigSettings",
    "MachineProviderConfiguration",
    "Control",
    "HistoryPage",
    "StoreIdentity",
    "StoreSchema",
    "Daemons",
    "DeletionWindow",
}
"""Kinds of entities that outlive the machines: what operators stored, whose the store is, what
happened, and what the caps on deletions count of it."""
CHANNELS_KEPT = 4
"""The topic and the subscription of the daemon, and their dead letters'."""


async def tell(stage: Stage) -> None:
    """Tells the story from an empty cloud to an empty cloud.

    Raises:
        DemoFailedError: something was not as it must be.
    """
    try:
        stage.show.chapter(TITLES[0])
        await _appear(stage)
        stage.show.chapter(TITLES[1])
        leased = await _lease(stage)
        stage.show.chapter(TITLES[2])
        await _return_one(stage, leased)
        stage.show.chapter(TITLES[3])
        await _wait_for_more(stage)
        stage.show.chapter(TITLES[4])
        await _roll(stage, leased)
        stage.show.chapter(TITLES[5])
        await _remove_one(stage)
        stage.show.chapter(TITLES[6])
        await _remove_all(stage)
    except RemoteError as error:
        raise DemoFailedError(str(error)) from None


async def _appear(stage: Stage) -> None:
    """From an empty cloud to machines that can be leased."""
    stage.configure(SMALL, LARGE)
    picture = await stage.until("the fleet", lambda found: _complete(found, SMALL, LARGE))
    stage.show.fact(
        f"{len(picture.vms)} VMs run in {len(picture.groups)} groups of "
        f"{len(picture.templates)} instance templates, and all of them can be leased"
    )
    for name, vm in picture.vms.items():
        await stage.insist(f"the metadata of {name}", partial(_is_told, stage, name, vm))
    stage.show.fact("the metadata of each VM names the subscription that tells it of leases")


async def _is_told(stage: Stage, name: str, vm: Vm) -> bool:
    return "pubsub_subscription" in await stage.metadata(name, vm)


async def _lease(stage: Stage) -> dict[str, str]:
    """Machines are held, through the Machine Provider's API; returns their names by lease."""
    leased = {request: await stage.lease(request, SMALL) for request in LEASES}
    names = set(leased.values())
    if len(names) < len(LEASES):
        raise DemoFailedError(f"two leases got the same machine: {sorted(leased.values())}")

    def check(picture: Picture) -> Iterator[str]:
        known = {shown["name"] for shown in picture.shown() if shown["state"] == "leased"}
        yield from (f"the daemon does not know that {name} is leased" for name in names - known)

    await stage.until("the leases", check)
    stage.show.fact(f"{len(names)} machines are leased, and the daemon knows: {_list(names)}")
    return leased


async def _return_one(stage: Stage, leased: dict[str, str]) -> None:
    """A machine that was given back is deleted, and replaced."""
    before = await stage.look()
    name = leased.pop(LEASES[0])
    await stage.release(LEASES[0])

    def check(picture: Picture) -> Iterator[str]:
        if name in picture.vms or name in picture.catalog:
            yield f"{name} is still there"
        yield from _complete(picture, SMALL, LARGE)

    after = await stage.until("the replacement", check)
    _untouched(before, after, set(before.vms) - {name})
    new = set(after.vms) - set(before.vms)
    stage.show.fact(f"{name} was given back and is gone; {_list(new)} took its place")
    stage.show.fact(f"the {len(before.vms) - 1} other VMs were left alone")


async def _wait_for_more(stage: Stage) -> None:
    """A job asks for more machines than there are: it is told why it waits, and the fleet grows."""
    count = LARGE.machines + 1
    lease = await stage.request(JOB, LARGE, count)
    if lease.waiting is None:
        raise DemoFailedError(f"{JOB} does not wait, although it asks for {count} machines")
    stage.show.fact(f"a job asks for {count} machines, and waits: {lease.waiting.message}")
    lease = await stage.granted(lease.id)
    stage.show.fact(f"the fleet grew for it: the job holds {_list(lease.machines)}")
    await stage.give_back(lease.id)

    def check(picture: Picture) -> Iterator[str]:
        yield from (f"{name} is still there" for name in lease.machines if name in picture.vms)
        yield from _complete(picture, SMALL, LARGE)

    await stage.until("the fleet without the job", check)
    stage.show.fact("given back, they are gone, and the fleet has its minimum sizes again")


async def _roll(stage: Stage, leased: dict[str, str]) -> None:
    """The new revision comes up beside the old one; who holds a machine keeps it."""
    before = await stage.look()
    old, held = set(before.of(SMALL)), set(leased.values())

    def leasable(picture: Picture) -> Mapping[str, int]:
        return {group.zone: picture.leasable(SMALL, group.zone) for group in SMALL.groups}

    def check(picture: Picture) -> Iterator[str]:
        for name in set(picture.of(SMALL)) & old - held:
            yield f"{name} of the old revision is still there"
        for group in SMALL.groups:
            vms = set(picture.of(SMALL, group.zone)) - old
            available = sum(picture.catalog.get(name) == "AVAILABLE" for name in vms)
            if available < group.minimum:
                yield f"{available} of {group.minimum} new machines in {group.zone} can be leased"

    async with stage.watching(leasable) as lowest:
        stage.configure(MEDIUM, LARGE)
        after = await stage.until("the new revision", check)
    _untouched(before, after, held | set(before.of(LARGE)))
    for group in SMALL.groups:
        if lowest[group.zone] < group.minimum:
            message = f"only {lowest[group.zone]} of {group.minimum} machines in {group.zone}"
            raise failure(f"{message} were leased or could be", [], after)
    stage.show.fact(f"{MEDIUM.machines} machines are now {MEDIUM.machine_type}")
    numbers = ", ".join(f"{lowest[group.zone]} in {group.zone}" for group in SMALL.groups)
    stage.show.fact(f"meanwhile the number to lease from never fell below {numbers}")
    stage.show.fact(f"the leased machines are the same VMs as before: {_list(held)}")
    for request in leased:
        await stage.release(request)
    await stage.until("the end of the old revision", lambda found: _complete(found, MEDIUM, LARGE))
    stage.show.fact("given back, they went too, and the old groups and template with them")


async def _remove_one(stage: Stage) -> None:
    """A template that the configuration no longer names goes, and nothing else."""
    before = await stage.look()
    stage.configure(MEDIUM)

    def check(picture: Picture) -> Iterator[str]:
        yield from _complete(picture, MEDIUM)
        if picture.entities.get("InstanceTemplate") != 1:
            yield f"entities of {LARGE.base_name} are still there"

    after = await stage.until(f"the end of {LARGE.base_name}", check)
    _untouched(before, after, set(before.of(MEDIUM)))
    stage.show.fact(f"{LARGE.base_name} is gone: VMs, group, instance template, entities")
    stage.show.fact(f"the VMs of {MEDIUM.base_name} were left alone")


async def _remove_all(stage: Stage) -> None:
    """An empty configuration is held until somebody approves it; then everything goes."""
    before = await stage.look()
    stage.configure()
    revision = await stage.held_revision()
    _untouched(before, await stage.look(), set(before.vms))
    stage.show.fact(
        f"the empty configuration ({revision[:12]}) is held for approval; nothing is touched"
    )
    await stage.approve(revision)
    await stage.until("the end of everything", _nothing_left)
    stage.show.fact("approved, everything is gone: VMs, disks, groups, instance templates,")
    stage.show.fact("catalog entries, topics of machines, all entities but settings and history")


def _complete(picture: Picture, *templates: Template) -> Iterator[str]:
    """What is lacking, or too much, for exactly these templates with all their machines."""
    groups = [(template, group) for template in templates for group in template.groups]
    for template, group in groups:
        vms = picture.of(template, group.zone)
        where = f"of {template.base_name} in {group.zone}"
        if len(vms) != group.minimum:
            yield f"{len(vms)} of {group.minimum} VMs {where}"
        elif (ready := picture.leasable(template, group.zone)) != group.minimum:
            yield f"{ready} of {group.minimum} machines {where} are in the catalog"
    counts = {
        "instance templates": (len(picture.templates), len(templates)),
        "groups": (len(picture.groups), len(groups)),
        "VMs": (len(picture.vms), sum(template.machines for template in templates)),
        "catalog entries": (len(picture.catalog), len(picture.vms)),
    }
    for what, (found, wanted) in counts.items():
        if found != wanted:
            yield f"{found} {what} instead of {wanted}"


def _nothing_left(picture: Picture) -> Iterator[str]:
    left: dict[str, Iterable[str]] = {
        "VMs": picture.vms,
        "disks": picture.disks,
        "groups": picture.groups,
        "instance templates": picture.templates,
        "catalog entries": picture.catalog,
        "kinds of entities": set(picture.entities) - LASTING,
    }
    for what, names in left.items():
        if names:
            yield f"{what} are still there: {_list(names)}"
    if len(picture.channels) > CHANNELS_KEPT:
        yield "topics or subscriptions of machines are still there"


def _untouched(before: Picture, after: Picture, names: Iterable[str]) -> None:
    """Names may be used again: it is the same VM only with the same numeric id."""
    for name in names:
        vm = after.vms.get(name)
        if vm is None or vm.id != before.vms[name].id:
            raise failure(f"{name} was touched, and must not have been", [], after)


def _list(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))
