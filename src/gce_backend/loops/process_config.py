"""process-config: makes the entities match the configuration: activate, drain, reactivate."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import lru_cache
from typing import NamedTuple

from msgspec.structs import replace

from gce_backend.actions import image_families
from gce_backend.base.dates import UnixSeconds
from gce_backend.base.errors import BackendError, TransientError
from gce_backend.base.tasks import off_loop
from gce_backend.configuration.alternatives import kinds_of
from gce_backend.configuration.image_families import family_of, resolved
from gce_backend.configuration.parsing import Examination, examine
from gce_backend.configuration.problems import InvalidConfigurationError
from gce_backend.configuration.types import Configuration
from gce_backend.configuration.values import SHOWN_CHARACTERS, shorten
from gce_backend.engine.context import Context
from gce_backend.engine.job import Job, Outcome
from gce_backend.fleet.conditions import reason_of
from gce_backend.fleet.picture import Change, when_present
from gce_backend.model.entities import (
    CONFIGURATION_KEY,
    CONTROL_KEY,
    STORE_IDENTITY_KEY,
    Entity,
    StoredConfiguration,
    StoreIdentity,
)
from gce_backend.model.keys import Key, TemplateKey, template_key
from gce_backend.model.orders import Control
from gce_backend.rules.activation import (
    UnreadEntityError,
    WantedTemplate,
    entities_of,
    known_entities,
    outdated,
    plan_template,
    rescheduled,
    wanted_templates,
    with_undone,
)

UNNAMED = "(without base_name)"
READ_ATTEMPTS = 4
"""A template, its revisions and their managers are each found through the one before."""


async def run(context: Context) -> Outcome:
    """Makes every template's entities match, each template in its own transaction."""
    stored = context.fleet.configuration
    if not stored.revision:
        return Outcome(facts={"waiting_for_config": 1})
    asked, spoiled, stale = await _wanted(context, stored)
    await _forget_undone(context, asked, spoiled)
    wanted = with_undone(asked, context.fleet.control.undone, context.fleet.get)
    await _remember_projects(context, {one.template.project for one in wanted.values()})
    names = sorted({*wanted, *spoiled, *(key.base_name for key in context.fleet.templates)})
    changed = 0
    problems = []
    trouble: TransientError | None = None
    for name in names:
        key = _subject(name)
        try:
            if name in spoiled:  # its wanted state is unknown: it stays as it is
                raise spoiled[name]
            written = await _process(context, name, wanted.get(name), stored.revision)
        except (
            TransientError
        ) as error:  # the store's trouble: the job fails, when all have had a try
            trouble = trouble or error
            continue
        except BackendError as error:  # it spoils only its own template
            context.conditions.note(key, reason_of(error), str(error))
            problems.append(f"{key.name}: {error}")
            continue
        if name in stale:
            context.conditions.note(key, reason_of(stale[name]), _stale_message(stale[name]))
        else:
            context.conditions.clear(key)
        if written:
            context.log.info("template.processed", template=name, entities=written)
        changed += written
    context.conditions.retain({_subject(name) for name in names}.__contains__)
    if trouble is not None:
        raise trouble
    if not problems:
        context.memory.processed_revision = stored.revision
    return Outcome(
        changed=changed,
        again_after=_until_next_sizes(wanted, context.clock.now()),
        facts={"templates": len(names)} if changed else {},
        problems=tuple(problems),
    )


def _until_next_sizes(wanted: Mapping[str, WantedTemplate], now: UnixSeconds) -> float | None:
    """Seconds until a schedule changes sizes; None when none does."""
    moments = (
        manager.next_sizes.at
        for template in wanted.values()
        for manager in template.managers
        if manager.next_sizes is not None
    )
    first = min(moments, default=None)
    return None if first is None else max(0.0, first - now)


async def _forget_undone(
    context: Context, asked: Mapping[str, WantedTemplate], spoiled: Collection[str]
) -> None:
    """Ends what an operator has undone, once the configuration describes something else."""
    ended = outdated(context.fleet.control.undone, asked, spoiled)
    if not ended:
        return

    def apply(control: Control) -> Control:
        return replace(control, undone=tuple(one for one in control.undone if one not in ended))

    await context.fleet.change([Change(CONTROL_KEY, when_present(apply))])


async def _remember_projects(context: Context, named: set[str]) -> None:
    """Stores the named projects: from then on they are searched for our resources."""

    def apply(identity: StoreIdentity) -> StoreIdentity:
        known = {*identity.projects, *named}
        return replace(identity, projects=tuple(sorted(known)))

    await context.fleet.change([Change(STORE_IDENTITY_KEY, when_present(apply))])


def _subject(name: str) -> TemplateKey:
    return template_key(shorten(name, SHOWN_CHARACTERS) or UNNAMED)


async def _process(
    context: Context, name: str, wanted: WantedTemplate | None, revision: str
) -> int:
    known = known_entities(name, wanted, context.fleet.get)
    keys = entities_of(name, wanted, known)
    if not plan_template(name, wanted, known, keys):
        return 0

    def decide(found: Mapping[Key, Entity]) -> Mapping[Key, Entity | None]:
        # Another process may have imported another one: the next run sees it, and decides by it.
        stored = found.get(CONFIGURATION_KEY)
        if not isinstance(stored, StoredConfiguration) or stored.revision != revision:
            return {}
        return plan_template(name, wanted, found, keys)

    for _ in range(READ_ATTEMPTS):
        try:
            return await context.fleet.transact(sorted({CONFIGURATION_KEY, *keys}, key=str), decide)
        except UnreadEntityError as error:
            keys |= set(error.keys)
    return 0


class _Asked(NamedTuple):
    """What the configuration asks for.

    Attributes:
        wanted: the templates of which that is known.
        spoiled: why it is not known of the others, by name.
        stale: why it is not known whether a template's image is the newest of its family, by name.
    """

    wanted: dict[str, WantedTemplate]
    spoiled: Mapping[str, BackendError]
    stale: Mapping[str, BackendError]


async def _wanted(context: Context, stored: StoredConfiguration) -> _Asked:
    files = tuple(sorted(stored.files.items()))
    extra = context.settings.machine_provider.extra_dimensions
    texts = stored.template_config, stored.manager_config
    size = sum(map(len, texts)) + sum(len(text) for _, text in files)
    found = await off_loop(lambda: _examined(*texts, files, extra), size)
    failed = await image_families.look(context, found.configuration.templates)
    images = tuple(sorted(context.fleet.configuration.images.items()))
    parsed, wanted = await off_loop(lambda: _parsed(*texts, files, extra, images), size)
    if any(manager.schedules for manager in parsed.managers):
        wanted = rescheduled(wanted, parsed, context.clock.now())
    spoiled: dict[str, BackendError] = {
        name: InvalidConfigurationError([problem]) for name, problem in found.spoiled.items()
    }
    spoiled |= {
        kind: spoiled[pool.kinds[0]]
        for manager in (context.fleet.managers.values() if spoiled else ())
        if (pool := manager.pool) is not None and pool.kinds and pool.kinds[0] in spoiled
        for kind in pool.kinds  # its alternatives, which are made from it
    }
    stale: dict[str, BackendError] = {}
    for template in parsed.templates:
        family = family_of(template)
        if family is None or (error := failed.get(str(family))) is None:
            continue
        names = [kind.template.base_name for kind in kinds_of(template)]
        (stale if template.image_name else spoiled).update(dict.fromkeys(names, error))
    known = {name: one for name, one in wanted.items() if name not in spoiled}
    return _Asked(known, spoiled, stale)


def _stale_message(error: BackendError) -> str:
    return f"It is not known whether its image is the newest of the family; it is used. {error}"


@lru_cache(maxsize=2)
def _examined(
    templates: str, managers: str, files: tuple[tuple[str, str], ...], extra: tuple[str, ...]
) -> Examination:
    """Examined once for each revision; a release may have other rules than the one that stored it.

    Raises:
        InvalidConfigurationError: a file cannot be read, so that nothing is known of any template.
    """
    found = examine(templates, managers, dict(files), extra)
    if not found.readable:
        raise InvalidConfigurationError(found.problems, found.total)
    return found


@lru_cache(maxsize=2)
def _parsed(
    templates: str,
    managers: str,
    files: tuple[tuple[str, str], ...],
    extra: tuple[str, ...],
    images: tuple[tuple[str, str], ...],
) -> tuple[Configuration, dict[str, WantedTemplate]]:
    """The same with the images of families, and what it asks for."""
    examined = _examined(templates, managers, files, extra)
    parsed = resolved(examined.configuration, dict(images))
    return parsed, wanted_templates(parsed, 0.0)


JOB = Job(
    name="process-config",
    run=run,
    timeout=60.0,
    wakes=(
        "create-instance-templates",
        "create-instance-group-managers",
        "catalog-instances",
        "resize-instance-groups",
        "remove-cataloged-instances",
    ),
)
