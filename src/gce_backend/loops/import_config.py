"""import-config: the stored configuration is the config service's, if that is valid."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from gce_backend.config import parse
from gce_backend.config_source import ConfigBundle
from gce_backend.context import Context
from gce_backend.errors import InvalidConfigurationError
from gce_backend.fleet import Change
from gce_backend.job import Job, Outcome
from gce_backend.models import CONFIGURATION_KEY, Configuration

NAME = "import-config"
SUBJECT = "configuration"


async def run(context: Context) -> Outcome:
    """Fetches what is new, and keeps the last good configuration when it is not valid."""
    known = context.fleet.configuration.revision or None
    bundle = await context.source().fetch(known)
    if bundle is None:
        context.conditions.clear(SUBJECT, NAME)
        return Outcome()
    try:
        parse(bundle.templates_text, bundle.managers_text, bundle.files)
    except InvalidConfigurationError as error:
        return _hold(context, bundle, error)
    changed = await context.fleet.change([Change(CONFIGURATION_KEY, _importing(bundle))])
    context.conditions.clear(SUBJECT, NAME)
    context.log.info("config.imported", job=NAME, revision=bundle.revision, previous=known)
    return Outcome(changed=changed)


def _hold(context: Context, bundle: ConfigBundle, error: InvalidConfigurationError) -> Outcome:
    problems = tuple(str(problem) for problem in error.problems)
    message = f"Revision {bundle.revision} is invalid and not used: {'; '.join(problems)}"
    if context.conditions.note(SUBJECT, NAME, "InvalidConfiguration", message):
        context.log.error(
            "config.invalid", job=NAME, revision=bundle.revision, problems=list(problems)
        )
    return Outcome(problems=problems)


def _importing(bundle: ConfigBundle) -> Callable[[Configuration | None], Configuration]:
    def apply(stored: Configuration | None) -> Configuration:
        return msgspec.structs.replace(
            stored or Configuration(),
            template_config=bundle.templates_text,
            manager_config=bundle.managers_text,
            files=dict(bundle.files),
            revision=bundle.revision,
        )

    return apply


JOB = Job(name=NAME, run=run, timeout=60.0, wakes=("process-config",))
