"""import-config: the stored configuration is the config service's, if that is valid.

Here a daemon also hears what operators have stored from outside.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable

from msgspec.structs import replace

from gce_backend.base.errors import BackendError
from gce_backend.clients.config_source import ConfigBundle
from gce_backend.configuration.diff import difference
from gce_backend.configuration.parsing import parse
from gce_backend.configuration.problems import InvalidConfigurationError
from gce_backend.engine.context import Context
from gce_backend.engine.job import Job, Outcome
from gce_backend.fleet.conditions import reason_of
from gce_backend.fleet.picture import Change
from gce_backend.model.entities import (
    CONFIG_SETTINGS_KEY,
    CONFIGURATION_KEY,
    CONTROL_KEY,
    MACHINE_PROVIDER_KEY,
    Candidate,
    CandidateState,
    StoredConfiguration,
)
from gce_backend.rules import config_guard

NAME = "import-config"
SUBJECT = "configuration"
AGAIN_SECONDS = 1.0
MAX_REASON = 1000
"""Characters that are kept of why a configuration is not in force."""
OPERATOR_KEYS = (CONTROL_KEY, CONFIGURATION_KEY, CONFIG_SETTINGS_KEY, MACHINE_PROVIDER_KEY)


async def run(context: Context) -> Outcome:
    """Fetches what is new, and keeps the last good configuration when it is not valid."""
    orders = await _hear_operators(context)
    outcome = await _import(context)
    return replace(outcome, changed=outcome.changed + orders)


async def _hear_operators(context: Context) -> int:
    """Reads what operators write; returns how many orders about machines are news."""
    await context.fleet.refresh(OPERATOR_KEYS)
    orders = frozenset(context.fleet.control.machine_orders)
    news = orders - context.world.heard
    if news:
        await context.fleet.refresh({order.machine for order in news})
    context.world.heard = orders
    return len(news)


async def _import(context: Context) -> Outcome:
    known = context.fleet.configuration.revision or None
    try:
        bundle = await context.source().fetch(known)
    except BackendError as error:
        message = f"It cannot be read now; the last good one stays in force. {error}"
        context.conditions.note(SUBJECT, NAME, reason_of(error), message)
        raise
    if bundle is None:
        await _note(context, None)
        context.conditions.clear(SUBJECT, NAME)
        context.metrics.config(problems=0, held=False)
        return Outcome()
    try:
        new = parse(bundle.templates_text, bundle.managers_text, bundle.files)
    except InvalidConfigurationError as error:
        return await _refuse(context, bundle, tuple(str(problem) for problem in error.problems))
    excess = config_guard.excess(bundle.templates_text, bundle.managers_text, bundle.files)
    if excess is not None:
        return await _refuse(context, bundle, (excess,))
    loss = config_guard.loss(
        context.fleet.configuration, new, context.settings.guard.max_config_loss_share
    )
    if loss is not None and context.fleet.control.approved_revision != bundle.revision:
        return await _hold(context, bundle, loss)
    changed = await context.fleet.change(
        [Change(CONFIGURATION_KEY, _importing(bundle, known or "", context.clock.now()))]
    )
    if not changed:  # another daemon was faster: what it has imported is judged against anew
        return Outcome(again_after=AGAIN_SECONDS)
    context.conditions.clear(SUBJECT, NAME)
    context.metrics.config(problems=0, held=False)
    context.log.info("config.imported", job=NAME, revision=bundle.revision, previous=known)
    return Outcome(changed=changed)


async def _hold(context: Context, bundle: ConfigBundle, loss: str) -> Outcome:
    message = (
        f"Revision {bundle.revision} waits for confirmation: {loss}. If that is meant: "
        f"`gce-backend approve {bundle.revision}`"
    )
    if context.conditions.note(SUBJECT, NAME, "HeldForApproval", message):
        context.log.error("config.held", job=NAME, revision=bundle.revision, reason=loss)
    await _note(context, _candidate(context, bundle, CandidateState.HELD, loss))
    context.metrics.config(problems=0, held=True)
    return Outcome(problems=(message,))


async def _refuse(context: Context, bundle: ConfigBundle, problems: tuple[str, ...]) -> Outcome:
    why = "; ".join(problems)
    message = f"Revision {bundle.revision} is invalid and not used: {why}"
    if context.conditions.note(SUBJECT, NAME, "InvalidConfiguration", message):
        context.log.error(
            "config.invalid", job=NAME, revision=bundle.revision, problems=list(problems)
        )
    await _note(context, _candidate(context, bundle, CandidateState.INVALID, why))
    context.metrics.config(problems=len(problems), held=False)
    return Outcome(problems=problems)


def _candidate(
    context: Context, bundle: ConfigBundle, state: CandidateState, reason: str
) -> Candidate:
    words = textwrap.shorten(reason, MAX_REASON, placeholder=" ...")
    return Candidate(bundle.revision, state, words, context.clock.now())


async def _note(context: Context, candidate: Candidate | None) -> None:
    """Stores what is served and not in force, when that is news."""

    def apply(stored: StoredConfiguration | None) -> StoredConfiguration | None:
        known = stored.candidate if stored is not None else None
        if known is None or candidate is None:
            same = known is candidate
        else:
            same = (known.revision, known.state) == (candidate.revision, candidate.state)
        if same:
            return stored
        return replace(stored or StoredConfiguration(), candidate=candidate)

    await context.fleet.change([Change(CONFIGURATION_KEY, apply)])


def _importing(
    bundle: ConfigBundle, judged_against: str, now: float
) -> Callable[[StoredConfiguration | None], StoredConfiguration]:
    def apply(stored: StoredConfiguration | None) -> StoredConfiguration:
        stored = stored or StoredConfiguration()
        if stored.revision != judged_against:
            return stored
        return replace(
            stored,
            template_config=bundle.templates_text,
            manager_config=bundle.managers_text,
            files=dict(bundle.files),
            revision=bundle.revision,
            imported=now,
            previous_revision=stored.revision,
            diff=_difference(stored, bundle) if stored.revision else "",
            candidate=None,
        )

    return apply


def _difference(stored: StoredConfiguration, bundle: ConfigBundle) -> str:
    before = {
        "templates.cfg": stored.template_config,
        "managers.cfg": stored.manager_config,
        **stored.files,
    }
    after = {
        "templates.cfg": bundle.templates_text,
        "managers.cfg": bundle.managers_text,
        **bundle.files,
    }
    return difference(before, after)


JOB = Job(
    name=NAME,
    run=run,
    timeout=60.0,
    wakes=(
        "process-config",
        "catalog-instances",
        "remove-cataloged-instances",
        "delete-drained-instances",
    ),
)
