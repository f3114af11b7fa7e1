"""process-config: the entities' structure is the configuration's: activate, drain, reactivate."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

from gce_backend.base.errors import CorruptEntityError
from gce_backend.configuration import parsing
from gce_backend.engine.context import Context
from gce_backend.engine.job import Job, Outcome
from gce_backend.model.entities import CONFIGURATION_KEY, Entity, StoredConfiguration
from gce_backend.model.keys import Key
from gce_backend.rules.activation import (
    UnreadEntityError,
    WantedTemplate,
    entities_of,
    known_entities,
    plan_template,
    wanted_templates,
)

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
    known = known_entities(name, wanted, context.fleet.get)
    keys = entities_of(name, wanted, known)
    if not plan_template(name, wanted, known, keys):
        return 0

    def decide(found: Mapping[Key, Entity]) -> Mapping[Key, Entity | None]:
        # Another process may have imported a newer one: what it wrote is not to be undone.
        stored = found.get(CONFIGURATION_KEY)
        if not isinstance(stored, StoredConfiguration) or not stored.revision:
            return {}
        return plan_template(name, _wanted(stored).get(name), found, keys)

    for _ in range(READ_ATTEMPTS):
        try:
            return await context.fleet.transact(sorted({CONFIGURATION_KEY, *keys}, key=str), decide)
        except UnreadEntityError as error:
            keys |= set(error.keys)
    return 0


def _wanted(stored: StoredConfiguration) -> dict[str, WantedTemplate]:
    files = tuple(sorted(stored.files.items()))
    return _parsed(stored.template_config, stored.manager_config, files)


@lru_cache(maxsize=2)
def _parsed(
    templates: str, managers: str, files: tuple[tuple[str, str], ...]
) -> dict[str, WantedTemplate]:
    """What the configuration asks for, by template; parsed once for each revision."""
    return wanted_templates(parsing.parse(templates, managers, dict(files)))


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
