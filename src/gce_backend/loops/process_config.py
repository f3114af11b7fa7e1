"""process-config: the entities' structure is the configuration's: activate, drain, reactivate."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

from gce_backend import config
from gce_backend.context import Context
from gce_backend.errors import CorruptEntityError
from gce_backend.job import Job, Outcome
from gce_backend.lifecycle import (
    UnreadEntityError,
    WantedManager,
    WantedTemplate,
    entities_of,
    plan_template,
)
from gce_backend.models import Configuration, Entity, Key

NAME = "process-config"
READ_ATTEMPTS = 4
"""A template, its revisions and their managers are each found through the one before."""


async def run(context: Context) -> Outcome:
    """Brings every template's entities into line, each template in a transaction of its own."""
    stored = context.fleet.configuration
    if not stored.revision:
        return Outcome(facts={"waiting_for_config": 1})
    wanted = _wanted(stored)
    names = sorted({*wanted, *(key.name for key in context.fleet.templates)})
    changed = 0
    problems = []
    for name in names:
        try:
            written = await _process(context, name, wanted.get(name))
        except CorruptEntityError as error:  # it spoils only its own template
            context.conditions.note(name, NAME, "CorruptEntity", str(error))
            problems.append(f"{name}: {error}")
            continue
        context.conditions.clear(name, NAME)
        if written:
            context.log.info("template.processed", job=NAME, template=name, entities=written)
        changed += written
    return Outcome(
        changed=changed,
        facts={"templates": len(names)} if changed else {},
        problems=tuple(problems),
    )


async def _process(context: Context, name: str, wanted: WantedTemplate | None) -> int:
    known = _picture(context, name, wanted)
    keys = entities_of(name, wanted, known)
    if not plan_template(name, wanted, known, keys):
        return 0

    def decide(found: Mapping[Key, Entity]) -> Mapping[Key, Entity | None]:
        return plan_template(name, wanted, found, keys)

    for _ in range(READ_ATTEMPTS):
        try:
            return await context.fleet.transact(sorted(keys, key=str), decide)
        except UnreadEntityError as error:
            keys |= set(error.keys)
    return 0


def _picture(context: Context, name: str, wanted: WantedTemplate | None) -> dict[Key, Entity]:
    """The template's entities in the picture: what it lists, then what that lists."""
    known: dict[Key, Entity] = {}
    size = -1
    while size != len(known):
        size = len(known)
        for key in entities_of(name, wanted, known):
            entity = context.fleet.get(key)
            if entity is not None:
                known[key] = entity
    return known


def _wanted(stored: Configuration) -> dict[str, WantedTemplate]:
    files = tuple(sorted(stored.files.items()))
    return _parsed(stored.template_config, stored.manager_config, files)


@lru_cache(maxsize=2)
def _parsed(
    templates: str, managers: str, files: tuple[tuple[str, str], ...]
) -> dict[str, WantedTemplate]:
    """What the configuration asks for, by template; parsed once for each revision."""
    parsed = config.parse(templates, managers, dict(files))
    return {
        template.base_name: WantedTemplate(
            checksum=config.checksum(template),
            template=template,
            managers=tuple(
                WantedManager(manager.zone, manager.minimum_size, manager.maximum_size)
                for manager in parsed.managers
                if manager.template_base_name == template.base_name
            ),
        )
        for template in parsed.templates
    }


JOB = Job(
    name=NAME,
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
