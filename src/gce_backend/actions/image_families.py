"""The newest images of the families that templates name: looked up now and then, and stored.

What is stored decides what templates boot from, so that all processes, and a daemon that starts
while Compute does not answer, mean the same revision.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping

from msgspec.structs import replace

from gce_backend.base.errors import BackendError, TransientError
from gce_backend.configuration.image_families import Family, families_of
from gce_backend.configuration.types import TemplateConfig
from gce_backend.engine.context import Context
from gce_backend.fleet.memory import FamilyLook
from gce_backend.fleet.picture import Change, when_present
from gce_backend.model.entities import CONFIGURATION_KEY, StoredConfiguration

LOOK_SECONDS = 600.0
"""Seconds between two looks at a family."""
RETRY_SECONDS = 60.0
"""Seconds until a look that failed is repeated."""
PATIENCE_SECONDS = 10.0
"""After which an answer is not waited for: the configuration must not wait for Compute."""
METHOD = "compute.images.getFromFamily"


async def look(context: Context, templates: Iterable[TemplateConfig]) -> Mapping[str, BackendError]:
    """Looks up the images of families that are due, and stores those that are new.

    Args:
        templates: as they are written.

    Returns:
        Why a family's image could not be looked up last time, by the family's key.

    Raises:
        RemoteError: Datastore could not be written.
    """
    families, looks = families_of(templates), context.memory.family_looks
    named = {str(family) for family in families}
    for key in looks.keys() - named:
        del looks[key]
    now = context.clock.monotonic()
    due = [one for one in families if str(one) not in looks or now >= looks[str(one)].again_at]
    answers = await asyncio.gather(*(_newest(context, family) for family in due))
    found: dict[str, str] = {}
    for family, answer in zip(due, answers, strict=True):
        if isinstance(answer, str):
            found[str(family)] = answer
        else:
            looks[str(family)] = FamilyLook(now + RETRY_SECONDS, answer)
    await _store(context, named, found)
    looks |= {key: FamilyLook(now + LOOK_SECONDS) for key in found}
    return {key: one.error for key, one in looks.items() if one.error is not None}


async def _newest(context: Context, family: Family) -> str | BackendError:
    """The name of a family's newest image, or why it cannot be told."""
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            return (await context.compute.get_image_from_family(*family)).name
    except TimeoutError:
        return TransientError(METHOD, f"no answer within {PATIENCE_SECONDS:g} s")
    except BackendError as error:
        return error


async def _store(context: Context, named: set[str], found: Mapping[str, str]) -> None:
    def apply(stored: StoredConfiguration) -> StoredConfiguration:
        kept = {key: image for key, image in stored.images.items() if key in named}
        images = {**kept, **found}
        return stored if images == stored.images else replace(stored, images=images)

    await context.fleet.change([Change(CONFIGURATION_KEY, when_present(apply))])
