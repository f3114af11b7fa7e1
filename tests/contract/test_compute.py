"""What the Compute client expects of Compute Engine, on one template and one group of two VMs."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Iterator
from functools import partial

import pytest

from contract.servers import Contract
from gce_backend.base.errors import (
    AlreadyExistsError,
    ConditionNotMetError,
    NotFoundError,
    ResourceInUseError,
)
from gce_backend.clients.compute.types import CompleteListing, ManagedInstance, Operation
from gce_backend.configuration.types import ServiceAccount, TemplateConfig, checksum
from gce_backend.daemon.clients import Clients
from gce_backend.gce_client import ComputeClient
from gce_backend.model.keys import manager_key
from gce_backend.rules import compute_bodies
from gce_backend.rules.ownership import OWNER_LABEL, Mark

MARK = Mark("gcebct", "0123456789ab")
SIZE = 2
PATIENCE = 600.0
"""Seconds until a group must have done what it was asked for."""


class Site:
    """A template and a group of a run."""

    def __init__(self, server: Contract, compute: ComputeClient) -> None:
        options = server.options
        self.compute = compute
        self.project, self.zone = options.project, options.zone
        self.config = TemplateConfig(
            base_name=server.run,
            project=options.project,
            machine_type=options.machine_type,
            image_name=options.image,
            image_project=options.image_project,
            service_accounts=(ServiceAccount("default"),),
        )
        manager = manager_key(server.run, checksum(self.config), options.zone)
        assert manager.parent is not None
        self.template_body = compute_bodies.template_body(MARK, manager.parent, self.config)
        self.template = self.template_body["name"]
        self.group_body = compute_bodies.group_body(MARK, manager, self.project, 0, self.template)
        self.group = self.group_body["name"]

    async def done(self, started: Awaitable[Operation]) -> None:
        """Waits until a mutation is done, and well."""
        ended = await self.compute.await_operation(await started, timeout=PATIENCE, floor=0.05)
        assert ended.done

    async def members(self) -> tuple[ManagedInstance, ...]:
        """The group's members, all of them."""
        listing = await self.compute.list_managed_instances(self.project, self.zone, self.group)
        assert isinstance(listing, CompleteListing)
        return listing.items

    async def until_members(self, count: int) -> tuple[ManagedInstance, ...]:
        """Waits until the group has so many members that run and of which nothing is under way."""
        async with asyncio.timeout(PATIENCE):
            while True:
                found = await self.members()
                settled = all(
                    member.current_action == "NONE" and member.instance_status == "RUNNING"
                    for member in found
                )
                if len(found) == count and settled:
                    return found
                await asyncio.sleep(0.05 if self.compute._root.startswith("http:") else 2.0)


Work = Callable[[Site], Awaitable[None]]
Asked = Callable[[Work], None]


@pytest.fixture(scope="module")
def ask(server: Contract) -> Iterator[Asked]:
    """Does something with the site; its template and group are made first."""

    def act(work: Work) -> None:
        async def with_site(clients: Clients) -> None:
            await work(Site(server, server.compute(clients)))

        server.ask(with_site)

    act(_make)
    yield act
    act(_end)


async def _make(site: Site) -> None:
    """Template, empty group, then two machines."""
    compute, where = site.compute, (site.project, site.zone)
    body = site.template_body
    await site.done(
        compute.insert_instance_template(site.project, body, request_id=str(uuid.uuid4()))
    )
    await site.done(compute.insert_group(*where, site.group_body, request_id=str(uuid.uuid4())))
    assert (await compute.get_group(*where, site.group)).target_size == 0
    names = [f"{site.group}-{letter}" for letter in "ab"]
    await site.done(
        compute.create_instances(*where, site.group, names, request_id=str(uuid.uuid4()))
    )
    assert len(await site.until_members(SIZE)) == SIZE


async def _end(site: Site) -> None:
    """The group with its machines, then the template: both are gone, and so are the VMs."""
    compute, where = site.compute, (site.project, site.zone)
    names = [member.instance.rpartition("/")[2] for member in await site.members()]
    await site.done(compute.delete_group(*where, site.group, request_id=str(uuid.uuid4())))
    with pytest.raises(NotFoundError):
        await compute.get_group(*where, site.group)
    for name in names:
        with pytest.raises(NotFoundError):
            await compute.get_instance(*where, name)
    await site.done(
        compute.delete_instance_template(site.project, site.template, request_id=str(uuid.uuid4()))
    )
    with pytest.raises(NotFoundError):
        await compute.get_instance_template(site.project, site.template)


def test_members_of_a_group_have_names_numbers_and_our_labels(ask: Asked) -> None:
    """A member names its VM; the VM's number is the member's; labels say whose it is."""

    async def work(site: Site) -> None:
        for member in await site.members():
            name = member.instance.rpartition("/")[2]
            assert name.startswith(site.group_body["baseInstanceName"])
            vm = await site.compute.get_instance(site.project, site.zone, name)
            assert vm.id == member.id
            assert vm.labels[OWNER_LABEL] == MARK.owner

    ask(work)


def test_the_group_says_what_it_is_and_that_it_is_stable(ask: Asked) -> None:
    """Target size and our description; nothing under way."""

    async def work(site: Site) -> None:
        found = await site.compute.get_group(site.project, site.zone, site.group)
        assert found.target_size == SIZE
        assert found.description == site.group_body["description"]
        assert found.status.is_stable
        template = await site.compute.get_instance_template(site.project, site.template)
        assert template.description == site.template_body["description"]

    ask(work)


def test_lists_over_all_zones_hold_ours_and_are_complete(ask: Asked) -> None:
    """Templates by filter on our name; groups and VMs of all zones."""

    async def work(site: Site) -> None:
        compute, project = site.compute, site.project
        condition = f'name = "{site.template}"'
        templates = await compute.list_instance_templates(project, condition)
        assert isinstance(templates, CompleteListing)
        assert [each.name for each in templates.items] == [site.template]
        groups = await compute.list_groups(project)
        assert isinstance(groups, CompleteListing)
        assert site.group in {each.name for each in groups.items}
        label = f'labels.{compute_bodies.TEMPLATE_LABEL} = "{site.config.base_name}"'
        vms = await compute.list_instances(project, label)
        assert isinstance(vms, CompleteListing)
        assert len(vms.items) == SIZE
        assert {vm.zone_name for vm in vms.items} == {site.zone}

    ask(work)


def test_names_that_are_taken_absent_or_in_use_are_told_apart(ask: Asked) -> None:
    """409, 404, and 400 for a template that a group uses."""

    async def work(site: Site) -> None:
        compute, project = site.compute, site.project
        with pytest.raises(AlreadyExistsError):
            await compute.insert_instance_template(
                project, site.template_body, request_id=str(uuid.uuid4())
            )
        with pytest.raises(AlreadyExistsError):
            await compute.insert_group(
                project, site.zone, site.group_body, request_id=str(uuid.uuid4())
            )
        absent = f"{site.config.base_name}-absent"
        with pytest.raises(NotFoundError):
            await compute.get_instance(project, site.zone, absent)
        with pytest.raises(NotFoundError):
            await compute.list_managed_instances(project, site.zone, absent)
        with pytest.raises(ResourceInUseError):
            await compute.delete_instance_template(
                project, site.template, request_id=str(uuid.uuid4())
            )

    ask(work)


def test_the_same_request_id_again_is_the_same_operation(ask: Asked) -> None:
    """Sent twice, a deletion of what is not a member is one operation."""

    async def work(site: Site) -> None:
        request_id = str(uuid.uuid4())
        where = (site.project, site.zone, site.group, [f"{site.group}-none"])
        ask_once = partial(
            site.compute.delete_instances, *where, request_id=request_id, skip_invalid=True
        )
        first, again = await ask_once(), await ask_once()
        assert first.name == again.name
        assert (await site.compute.get_operation(first.link)).name == first.name

    ask(work)


def test_metadata_is_replaced_only_from_its_present_fingerprint(ask: Asked) -> None:
    """A fresh fingerprint sets it, the one before that is refused with 412."""

    async def work(site: Site) -> None:
        compute, where = site.compute, (site.project, site.zone)
        name = (await site.members())[0].instance.rpartition("/")[2]
        before = (await compute.get_instance(*where, name)).metadata
        items = {**before.as_dict(), "contract": "kept"}
        await site.done(
            compute.set_instance_metadata(
                *where, name, before.fingerprint, items, request_id=str(uuid.uuid4())
            )
        )
        after = (await compute.get_instance(*where, name)).metadata
        assert after.as_dict() == items
        assert after.fingerprint != before.fingerprint
        with pytest.raises(ConditionNotMetError):
            await site.done(
                compute.set_instance_metadata(
                    *where, name, before.fingerprint, {}, request_id=str(uuid.uuid4())
                )
            )
        assert (await compute.get_instance(*where, name)).metadata.as_dict() == items

    ask(work)


def test_deleted_members_leave_and_the_group_shrinks_once_also_when_asked_twice(
    ask: Asked,
) -> None:
    """The target size falls by one for one VM, and the same request again changes nothing."""

    async def work(site: Site) -> None:
        compute, where = site.compute, (site.project, site.zone)
        name = (await site.members())[0].instance.rpartition("/")[2]
        request_id = str(uuid.uuid4())
        names = [name, f"{site.config.base_name}-absent"]
        for _ in range(2):
            await site.done(
                compute.delete_instances(
                    *where, site.group, names, request_id=request_id, skip_invalid=True
                )
            )
        assert (await compute.get_group(*where, site.group)).target_size == SIZE - 1
        (left,) = await site.until_members(SIZE - 1)
        assert not left.instance.endswith(name)
        with pytest.raises(NotFoundError):
            await compute.get_instance(*where, name)
        await site.done(
            compute.create_instances(*where, site.group, [name], request_id=str(uuid.uuid4()))
        )
        await site.until_members(SIZE)

    ask(work)


def test_machine_types_images_and_zones_say_their_sizes(ask: Asked) -> None:
    """What catalog entries are computed from."""

    async def work(site: Site) -> None:
        kind = await site.compute.get_machine_type(
            site.project, site.zone, site.config.machine_type
        )
        assert kind.guest_cpus > 0
        assert kind.memory_mb > 0
        image = await site.compute.get_image(site.config.image_project, site.config.image_name)
        assert image.disk_size_gb > 0

    ask(work)
