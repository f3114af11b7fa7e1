"""What `gce-backend plan` compares: a configuration with the store and Compute Engine's groups."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from gce_backend.base.clock import SystemClock
from gce_backend.base.dates import UnixSeconds
from gce_backend.base.errors import NotFoundError, PermissionDeniedError, RemoteError
from gce_backend.cli.common import clients_of
from gce_backend.cli.output import console
from gce_backend.cli.plan_text import Document
from gce_backend.clients.compute.call_budget import CallBudget, QuotaGroup
from gce_backend.clients.compute.types import CompleteListing
from gce_backend.clients.config_source import ConfigBundle, DirectorySource
from gce_backend.configuration.alternatives import kinds_of
from gce_backend.configuration.image_families import families_of, resolved
from gce_backend.configuration.parsing import parse, referenced_files
from gce_backend.configuration.types import Configuration as ParsedConfiguration
from gce_backend.daemon.clients import Remotes
from gce_backend.engine.machine_sizes import ComputeSizes
from gce_backend.fleet.picture import Fleet
from gce_backend.fleet.present import machines, plan_of
from gce_backend.fleet.store import KINDS, Store
from gce_backend.gce_client import ComputeClient
from gce_backend.model.entities import SetAsideMessage
from gce_backend.model.keys import GroupKey
from gce_backend.rules import config_guard
from gce_backend.rules import plan as plans
from gce_backend.rules.activation import WantedTemplate, wanted_templates
from gce_backend.rules.cost import (
    change_in_words,
    daily_minimum,
    hourly_price,
    is_listed,
    present_minimum,
)
from gce_backend.rules.permits import awaits_drain
from gce_backend.rules.plan import TemplatePlan
from gce_backend.settings.settings import Settings
from gce_backend.setup.named_resources import Lookup, named_resources


async def compare(
    settings: Settings, directory: Path | None, at: UnixSeconds | None = None
) -> Document:
    """Compares a configuration with the store and Compute Engine's groups.

    Args:
        directory: the directory of the configuration; None for the one that the daemon would fetch.
        at: the time at which its schedules are applied; None is now.

    Raises:
        InvalidConfigurationError: the configuration breaks rules.
        BackendError: something could not be read.
    """
    with console(stderr=True).status("reading the store ..."):
        async with clients_of(settings) as (clients, project):
            fleet = Fleet(Store(clients.datastore(project)))
            await fleet.load(kind for kind in KINDS if kind is not SetAsideMessage)
            remotes = Remotes(
                session=clients.session, tokens=clients.identity, settings=settings, fleet=fleet
            )
            source = DirectorySource(directory, referenced_files) if directory else remotes.source()
            bundle = await source.fetch(None)
            if bundle is None:
                raise AssertionError("a source gives None only for a revision that is known")
            calls = dict.fromkeys(QuotaGroup, settings.compute.calls_per_minute)
            compute = clients.compute(CallBudget(SystemClock(), calls))
            sizes, unseen = await _sizes(compute, fleet)
            images, doubts = await _images(settings, compute, fleet, bundle)
            prices = await _prices(settings, compute, fleet, bundle)
            if directory is not None:
                doubts += await _absent(settings, compute, bundle)
    return look(
        settings,
        fleet,
        bundle,
        sizes,
        directory=directory,
        at=at,
        prices=prices,
        images=images,
        notes=(*unseen, *doubts),
    )


async def _sizes(compute: ComputeClient, fleet: Fleet) -> tuple[dict[GroupKey, int], list[str]]:
    """The target size of each group, and a note for each project that could not be read."""
    projects: dict[str, list[GroupKey]] = {}
    for key, manager in fleet.managers.items():
        if manager.url is not None and key.parent in fleet.revisions:
            projects.setdefault(fleet.revision_of(key).template.project, []).append(key)
    sizes: dict[GroupKey, int] = {}
    notes: list[str] = []
    for project, keys in sorted(projects.items()):
        groups: dict[tuple[str, str], int] = {}
        try:
            listing = await compute.list_groups(project)
        except RemoteError as error:
            reasons, complete = str(error), False
        else:
            groups = {(group.zone_name, group.name): group.target_size for group in listing.items}
            complete = isinstance(listing, CompleteListing)
            reasons = "" if isinstance(listing, CompleteListing) else "; ".join(listing.reasons)
        for key in keys:
            size = groups.get((key.name, fleet.group_name(key)))
            if size is not None:
                sizes[key] = size
            elif not complete:
                sizes[key] = fleet.size(key)
        if not complete:
            notes.append(
                f"some groups of {project} could not be read at Compute Engine: the machines in "
                f"the store are counted for them. {reasons}"
            )
    return sizes, notes


async def _images(
    settings: Settings, compute: ComputeClient, fleet: Fleet, bundle: ConfigBundle
) -> tuple[dict[str, str], list[str]]:
    """The newest images of the families that templates name, and notes about them.

    Of a family that cannot be looked up, the image that the daemon has found last counts.
    """
    texts = bundle.templates_text, bundle.managers_text, bundle.files
    parsed = parse(*texts, settings.machine_provider.extra_dimensions)
    images, notes = dict(fleet.configuration.images), []
    for family in families_of(parsed.templates):
        key = str(family)
        try:
            images[key] = (await compute.get_image_from_family(*family)).name
        except RemoteError as error:
            known = images.get(key, "an unknown image")
            notes.append(f"the family {key} could not be looked up: {known} counts. {error}")
        else:
            notes.append(f"the newest image of the family {key} is {images[key]}")
    return images, notes


async def _absent(settings: Settings, compute: ComputeClient, bundle: ConfigBundle) -> list[str]:
    """What a configuration names and Compute Engine does not have, or does not tell of."""
    texts = bundle.templates_text, bundle.managers_text, bundle.files
    parsed = parse(*texts, settings.machine_provider.extra_dimensions)

    async def look_up(item: tuple[str, Lookup]) -> str:
        what, lookup = item
        try:
            await lookup.ask()
        except NotFoundError:
            return f"there is no {what}: the daemon cannot make what needs it"
        except PermissionDeniedError as error:
            if lookup.permission:
                return f"{what} cannot be seen without the permission {lookup.permission}"
            return f"{what} could not be looked up. {error}"
        except RemoteError as error:
            return f"{what} could not be looked up. {error}"
        return ""

    found = await asyncio.gather(*map(look_up, named_resources(compute, parsed).items()))
    return [problem for problem in found if problem]


async def _prices(
    settings: Settings, compute: ComputeClient, fleet: Fleet, bundle: ConfigBundle
) -> dict[str, float]:
    """Prices of an hour, by machine type; a type whose size cannot be read has none."""
    texts = bundle.templates_text, bundle.managers_text, bundle.files
    parsed = parse(*texts, settings.machine_provider.extra_dimensions)
    places = {
        (one.project, manager.zone, kind.template.machine_type): kind.template
        for one in parsed.templates
        for kind in kinds_of(one)
        for manager in parsed.managers
        if manager.template_base_name == one.base_name
    }
    places |= {
        (revision.template.project, zone, revision.template.machine_type): revision.template
        for _, revision in fleet.active_revisions()
        for zone in revision.active
    }
    sizes, listed = ComputeSizes(compute), settings.cost.prices
    found: dict[str, float] = {}
    for (_, zone, machine_type), template in places.items():
        if machine_type in found:
            continue
        shape = None
        if not is_listed(machine_type, listed):
            with contextlib.suppress(RemoteError):
                shape = await sizes.shape(template, zone)
        price = hourly_price(machine_type, shape, listed)
        if price is not None:
            found[machine_type] = price
    return found


def look(
    settings: Settings,
    fleet: Fleet,
    bundle: ConfigBundle,
    sizes: Mapping[GroupKey, int],
    *,
    directory: Path | None = None,
    at: UnixSeconds | None = None,
    prices: Mapping[str, float] | None = None,
    images: Mapping[str, str] | None = None,
    notes: Sequence[str] = (),
) -> Document:
    """Compares a configuration with the entities and the groups' sizes.

    Args:
        fleet: the entities.
        bundle: the configuration.
        sizes: target sizes of the managers' groups at Compute.
        directory: its directory; None when it is the one that the daemon would fetch.
        at: the time at which its schedules are applied; None is now.
        prices: of an hour, by machine type; None when costs are of no interest.
        images: the newest images by families' keys; None for those that the daemon has found.
        notes: what the comparison does not cover.

    Raises:
        InvalidConfigurationError: the configuration breaks rules.
    """
    texts = bundle.templates_text, bundle.managers_text, bundle.files
    parsed = resolved(
        parse(*texts, settings.machine_provider.extra_dimensions),
        fleet.configuration.images if images is None else images,
    )
    spoiled = {key.base_name for key in fleet.corrupt}
    now = SystemClock().now()
    wanted = wanted_templates(parsed, now if at is None else at)
    found = plan_of(
        fleet,
        wanted,
        sizes,
        now,
        lambda key: (
            not settings.actuate or any(it.covers(key) for it in fleet.control.pauses_in_force)
        ),
    )
    return Document(
        source=str(directory) if directory else "the configuration that the daemon would fetch",
        revision=bundle.revision,
        in_force=fleet.configuration.revision,
        held=_held(settings, fleet, bundle, parsed, found, configured=directory is None),
        cost=_cost(settings, fleet, wanted, prices) if prices is not None else "",
        notes=(*notes, *map(str, parsed.warnings), *_notes(settings, fleet, spoiled)),
        changes=bool(found),
        totals=plans.totals(found),
        templates=found,
    )


def _cost(
    settings: Settings,
    fleet: Fleet,
    wanted: Mapping[str, WantedTemplate],
    prices: Mapping[str, float],
) -> str:
    """What the configuration changes about the daily costs of the minimum sizes."""
    active = ((fleet.revision_of(key), manager) for key, manager in fleet.active_managers())
    after, unknown = daily_minimum(wanted.values(), prices)
    before = present_minimum(active, prices)
    return change_in_words(before, after, unknown, settings.cost.currency)


def _held(
    settings: Settings,
    fleet: Fleet,
    bundle: ConfigBundle,
    parsed: ParsedConfiguration,
    found: Sequence[TemplatePlan],
    *,
    configured: bool,
) -> str:
    """Why import-config would not let this configuration come into force at once."""
    if bundle.revision in {fleet.configuration.revision, fleet.control.approved_revision}:
        return ""
    if not fleet.configuration.revision:
        return ""
    objection = config_guard.objection(
        found,
        machines(fleet),
        settings.guard,
        empty=not parsed.managers and any(True for _ in fleet.active_managers()),
    )
    if objection is None:
        return ""
    remedy = f"once it waits, `gce-backend approve {bundle.revision}`"
    if not configured:
        remedy = "once it is submitted, `gce-backend approve REVISION` (`status` names it)"
    return f"it would wait for approval: {objection}. If that is intended: {remedy}"


def _notes(settings: Settings, fleet: Fleet, spoiled: set[str]) -> Iterator[str]:
    if not settings.actuate:
        yield "these settings have actuate = false: with them, the daemon does none of this"
    for pause in fleet.control.pauses_in_force:
        yield f"{pause}: what it covers waits until `{pause.ended_by}`"
    unknown = sum(
        awaits_drain(one, lambda _: 0.0, 0.0, active=fleet.is_active(key.group))
        for key, one in fleet.instances.items()
    )
    if unknown:
        deleted = settings.machine_provider.lost_machines == "delete"
        end = (
            "deleted within the cap on unconfirmed deletions, unless the catalog holds them again"
            if deleted
            else "kept until each is drained (`gce-backend drain NAME`)"
        )
        yield f"machines that the catalog does not hold, {unknown} in all, are {end}"
    for name in sorted(spoiled):
        yield f"{name} is left out: one of its entities cannot be read (`gce-backend status`)"
