"""import-config: the stored configuration is the config service's, if that is valid."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from gce_backend.actuation import reason_of
from gce_backend.config import Configuration as ParsedConfiguration
from gce_backend.config import parse
from gce_backend.config_source import ConfigBundle
from gce_backend.context import Context
from gce_backend.errors import BackendError, InvalidConfigurationError
from gce_backend.fleet import Change
from gce_backend.job import Job, Outcome
from gce_backend.models import (
    CONFIG_SETTINGS_KEY,
    CONFIGURATION_KEY,
    CONTROL_KEY,
    MACHINE_PROVIDER_KEY,
    Configuration,
)

NAME = "import-config"
SUBJECT = "configuration"
MAX_STORED_BYTES = 1_000_000
"""A Datastore entity holds 1 MiB in all."""
OPERATOR_KEYS = (CONTROL_KEY, CONFIGURATION_KEY, CONFIG_SETTINGS_KEY, MACHINE_PROVIDER_KEY)


async def run(context: Context) -> Outcome:
    """Fetches what is new, and keeps the last good configuration when it is not valid."""
    # The operator writes these from outside: one read keeps the picture of them current.
    await context.fleet.refresh(OPERATOR_KEYS)
    known = context.fleet.configuration.revision or None
    try:
        bundle = await context.source().fetch(known)
    except BackendError as error:
        message = f"It cannot be read now; the last good one stays in force. {error}"
        context.conditions.note(SUBJECT, NAME, reason_of(error), message)
        raise
    context.world.held_revision = ""
    if bundle is None:
        context.conditions.clear(SUBJECT, NAME)
        context.metrics.config(problems=0, held=False)
        return Outcome()
    try:
        new = parse(bundle.templates_text, bundle.managers_text, bundle.files)
    except InvalidConfigurationError as error:
        return _refuse(context, bundle, error)
    size = bundle_size(bundle)
    if size > MAX_STORED_BYTES:
        problem = (
            f"{size} bytes of configuration and of the files that it names do not fit into one "
            f"entity of {MAX_STORED_BYTES} bytes: make them smaller"
        )
        return _note_invalid(context, bundle, (problem,))
    loss = _loss(context, new)
    if loss is not None and context.fleet.control.approved_revision != bundle.revision:
        return _hold(context, bundle, loss)
    changed = await context.fleet.change([Change(CONFIGURATION_KEY, _importing(bundle))])
    context.conditions.clear(SUBJECT, NAME)
    context.metrics.config(problems=0, held=False)
    context.log.info("config.imported", job=NAME, revision=bundle.revision, previous=known)
    return Outcome(changed=changed)


def bundle_size(bundle: ConfigBundle) -> int:
    """Bytes that a configuration takes in the store."""
    texts = (bundle.templates_text, bundle.managers_text, *bundle.files.values())
    return sum(len(text.encode()) for text in texts)


def _loss(context: Context, new: ParsedConfiguration) -> str | None:
    """Why a configuration waits for an operator's confirmation; None when it does not."""
    stored = context.fleet.configuration
    if not stored.revision:
        return None
    try:
        old = parse(stored.template_config, stored.manager_config, stored.files)
    except InvalidConfigurationError:
        return "the one in force was stored by a release with other rules: nothing to compare with"
    sizes = {(m.template_base_name, m.zone): m.minimum_size for m in new.managers}
    lost = sum(
        max(0, manager.minimum_size - sizes.get((manager.template_base_name, manager.zone), 0))
        for manager in old.managers
    )
    share = context.settings.guard.max_config_loss_share
    if not old.minimum_total or (new.managers and lost <= share * old.minimum_total):
        return None
    return f"it takes away {lost} of {old.minimum_total} machines (up to {share:.0%} need no word)"


def _hold(context: Context, bundle: ConfigBundle, loss: str) -> Outcome:
    message = (
        f"Revision {bundle.revision} waits for confirmation: {loss}. If that is meant: "
        f"`gce-backend approve {bundle.revision}`"
    )
    if context.conditions.note(SUBJECT, NAME, "HeldForApproval", message):
        context.log.error("config.held", job=NAME, revision=bundle.revision, reason=loss)
    context.world.held_revision = bundle.revision
    context.metrics.config(problems=0, held=True)
    return Outcome(problems=(message,))


def _refuse(context: Context, bundle: ConfigBundle, error: InvalidConfigurationError) -> Outcome:
    return _note_invalid(context, bundle, tuple(str(problem) for problem in error.problems))


def _note_invalid(context: Context, bundle: ConfigBundle, problems: tuple[str, ...]) -> Outcome:
    message = f"Revision {bundle.revision} is invalid and not used: {'; '.join(problems)}"
    if context.conditions.note(SUBJECT, NAME, "InvalidConfiguration", message):
        context.log.error(
            "config.invalid", job=NAME, revision=bundle.revision, problems=list(problems)
        )
    context.metrics.config(problems=len(problems), held=False)
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
