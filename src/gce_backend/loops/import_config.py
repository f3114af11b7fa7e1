"""import-config: the stored configuration is the config service's, if that is valid.

It also reads the orders that operators have stored.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping

from msgspec.structs import replace

from gce_backend.base.dates import UnixSeconds
from gce_backend.base.errors import BackendError
from gce_backend.base.tasks import off_loop
from gce_backend.clients.config_source import ConfigBundle
from gce_backend.configuration.diff import difference
from gce_backend.configuration.image_families import resolved
from gce_backend.configuration.parsing import parse
from gce_backend.configuration.problems import InvalidConfigurationError, listed
from gce_backend.configuration.types import Configuration
from gce_backend.engine.context import Context
from gce_backend.engine.job import Job, Outcome
from gce_backend.fleet.conditions import reason_of
from gce_backend.fleet.picture import Change, Decision
from gce_backend.fleet.present import machines, plan_of
from gce_backend.model.entities import (
    CONFIG_SETTINGS_KEY,
    CONFIGURATION_KEY,
    CONTROL_KEY,
    MACHINE_PROVIDER_KEY,
    Candidate,
    CandidateState,
    Entity,
    Instance,
    StoredConfiguration,
)
from gce_backend.model.keys import Key
from gce_backend.model.orders import Control
from gce_backend.rules import config_guard
from gce_backend.rules.activation import wanted_templates

SUBJECT = "configuration"
AGAIN_SECONDS = 1.0
MAX_REASON = 1000
"""Characters of the stored reason why a configuration is not in force."""
MAX_LOGGED = 10
"""Most problems or warnings in one log line and one condition."""
MAX_UNSEEN = 100
"""Most unacknowledged set-aside messages that one run reads again."""
OPERATOR_KEYS = (CONTROL_KEY, CONFIGURATION_KEY, CONFIG_SETTINGS_KEY, MACHINE_PROVIDER_KEY)


async def run(context: Context) -> Outcome:
    """Fetches a new configuration; if it is invalid, the last valid one stays in force."""
    orders = await _hear_operators(context)
    outcome = await _import(context)
    return replace(outcome, changed=outcome.changed + orders)


async def _hear_operators(context: Context) -> int:
    """Reads operators' orders; returns how many orders about machines are new."""
    kept = context.fleet.set_aside.items()
    unseen = [key for key, message in kept if message.seen is None]
    await context.fleet.refresh([*OPERATOR_KEYS, *unseen[:MAX_UNSEEN]])
    orders = frozenset(context.fleet.control.machine_orders)
    news = orders - context.memory.heard
    if news:
        await context.fleet.refresh({order.machine for order in news})
    ordered = context.fleet.control.machines_ordered
    if ordered != context.memory.heard_of_many:
        await context.fleet.load((Instance,))
    context.memory.heard_of_many = ordered
    context.memory.heard = orders
    return len(news)


async def _import(context: Context) -> Outcome:
    known = context.fleet.configuration.revision or None
    context.memory.confirmed_revision = ""
    try:
        bundle = await context.source().fetch(known)
    except BackendError as error:
        message = f"It cannot be read now; the last good one stays in force. {error}"
        context.conditions.note(SUBJECT, reason_of(error), message)
        raise
    if bundle is None:
        await _note(context, None)
        context.conditions.clear(SUBJECT)
        context.metrics.config(problems=0, held=False)
        context.memory.confirmed_revision = known or ""
        return Outcome()
    try:
        new = await off_loop(lambda: _parsed(context, bundle), bundle.size)
    except InvalidConfigurationError as error:
        return await _refuse(context, bundle, error)
    objection = _objection(context, new)
    if objection is not None and context.fleet.control.approved_revision != bundle.revision:
        return await _hold(context, bundle, objection)
    warnings = tuple(map(str, new.warnings[:MAX_LOGGED]))
    imported = _importing(bundle, known or "", context.clock.now(), warnings)
    decide = _with_approval(imported, bundle.revision, needed=objection is not None)
    # Without an approval, orders that cannot be understood hinder no import.
    approved = context.fleet.control.approved_revision == bundle.revision
    keys = [CONFIGURATION_KEY, CONTROL_KEY] if approved else [CONFIGURATION_KEY]
    changed = await context.fleet.transact(keys, decide)
    if not changed:  # another daemon was faster: what it has imported is judged against anew
        return Outcome(again_after=AGAIN_SECONDS)
    context.conditions.clear(SUBJECT)
    context.metrics.config(problems=0, held=False)
    context.memory.confirmed_revision = bundle.revision
    context.log.info(
        "config.imported",
        revision=bundle.revision,
        previous=known,
        warnings=warnings,
    )
    return Outcome(changed=changed)


def _parsed(context: Context, bundle: ConfigBundle) -> Configuration:
    extra = context.settings.machine_provider.extra_dimensions
    return parse(bundle.templates_text, bundle.managers_text, bundle.files, extra)


def _objection(context: Context, new: Configuration) -> str | None:
    """Why a configuration waits for confirmation; None when it does not."""
    fleet = context.fleet
    if not fleet.configuration.revision:
        return None
    now = context.clock.now()
    new = resolved(new, fleet.configuration.images)
    sizes = {key: group.target_size for key, group in context.memory.seen.groups.items()}
    return config_guard.objection(
        plan_of(fleet, wanted_templates(new, now), sizes, now),
        machines(fleet),
        context.settings.guard,
        empty=not new.managers and any(True for _ in fleet.active_managers()),
    )


async def _hold(context: Context, bundle: ConfigBundle, why: str) -> Outcome:
    message = (
        f"Revision {bundle.revision} waits for approval: {why}. If that is intended: "
        f"`gce-backend approve {bundle.revision}`"
    )
    context.conditions.note(SUBJECT, "HeldForApproval", message)
    if context.fleet.configuration.held_revision != bundle.revision:  # the numbers may change
        context.log.error("config.held", revision=bundle.revision, reason=why)
    await _note(context, _candidate(context, bundle, CandidateState.HELD, why))
    context.metrics.config(problems=0, held=True)
    return Outcome(problems=(message,))


async def _refuse(
    context: Context, bundle: ConfigBundle, error: InvalidConfigurationError
) -> Outcome:
    problems = listed(error.problems[:MAX_LOGGED], error.total)
    why = _short("; ".join(problems))
    message = f"Revision {bundle.revision} is invalid and not used: {why}"
    if context.conditions.note(SUBJECT, "InvalidConfiguration", message):
        context.log.error("config.invalid", revision=bundle.revision, problems=problems)
    await _note(context, _candidate(context, bundle, CandidateState.INVALID, why))
    context.metrics.config(problems=error.total, held=False)
    return Outcome(problems=tuple(problems))


def _candidate(
    context: Context, bundle: ConfigBundle, state: CandidateState, reason: str
) -> Candidate:
    return Candidate(bundle.revision, state, _short(reason), context.clock.now())


def _short(reason: str) -> str:
    return textwrap.shorten(reason, MAX_REASON, placeholder=" ...")


async def _note(context: Context, candidate: Candidate | None) -> None:
    """Stores a new revision that is served but not in force."""

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
    bundle: ConfigBundle, judged_against: str, now: UnixSeconds, warnings: tuple[str, ...]
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
            warnings=warnings,
            candidate=None,
        )

    return apply


def _with_approval(
    imported: Callable[[StoredConfiguration | None], StoredConfiguration],
    revision: str,
    *,
    needed: bool,
) -> Decision:
    """Imports a revision, and ends the operator's approval, which is for one import.

    Args:
        imported: the import, from the configuration in force.
        revision: the imported revision.
        needed: whether it needs an approval.
    """

    def decide(found: Mapping[Key, Entity]) -> Mapping[Key, Entity | None]:
        stored, control = found.get(CONFIGURATION_KEY), found.get(CONTROL_KEY)
        before = stored if isinstance(stored, StoredConfiguration) else None
        after = imported(before)
        approved = isinstance(control, Control) and control.approved_revision == revision
        if after == before or (needed and not approved):
            return {}
        news: dict[Key, Entity | None] = {CONFIGURATION_KEY: after}
        if isinstance(control, Control) and approved:
            news[CONTROL_KEY] = replace(control, approved_revision="", approved_by="")
        return news

    return decide


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
    name="import-config",
    run=run,
    timeout=60.0,
    wakes=(
        "process-config",
        "catalog-instances",
        "remove-cataloged-instances",
        "delete-drained-instances",
    ),
)
