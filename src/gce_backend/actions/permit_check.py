"""Asks the Machine Provider just before every deletion: only it knows who holds a machine.

A permit may be stale or wrong: the store was restored, a late addition created a new entry, a
message was redelivered, or a wrong or empty Machine Provider answered. So a permit is used only
after an answer to `delete_machine`. A machine that the catalog calls leased is kept, and so is an
entry under its host name that is not its own. No answer means no deletion.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from gce_backend.actions.broker_turns import BROKER, BrokerTurns
from gce_backend.actions.fan_out import Result, act_on_each
from gce_backend.actions.lease_ends import end_of
from gce_backend.base.errors import HostnameReuseError
from gce_backend.clients.machine_provider import (
    CatalogEntry,
    CatalogError,
    EntryOf,
    MethodNotOffered,
)
from gce_backend.engine.context import Context
from gce_backend.engine.job import Outcome
from gce_backend.fleet.picture import Apply, Change, when_present
from gce_backend.model.entities import CatalogState, Instance, Lease
from gce_backend.model.keys import MachineKey
from gce_backend.model.machine_token import instance_token
from gce_backend.rules.cataloging import found_again, settles_in
from gce_backend.rules.permits import held, is_unknown, lease_runs, permit

TOGETHER_SECONDS = 5.0
"""Seconds in which questions start whose answers are stored together."""
LEASED = "Leased"
UNCONFIRMED = "Unconfirmed"
REUSED = (
    "the catalog has its host name under another key: it is deleted after that entry is removed. "
    "Find out whose entry it is, and remove it from the catalog"
)


class Checked(msgspec.Struct, frozen=True):
    """The Machine Provider's answers about permits.

    Attributes:
        permits: the valid permits by instance: REMOVED if this question removed the machine from
            the catalog, None if the machine was not in it.
        outcome: the problems, and when to ask again.
        left: instances that it was not asked about yet.
    """

    permits: Mapping[MachineKey, CatalogState | None]
    outcome: Outcome
    left: tuple[MachineKey, ...]


async def with_fresh_permits(
    context: Context, keys: Sequence[MachineKey], turns: BrokerTurns
) -> Checked:
    """The instances whose permits the Machine Provider confirms now.

    If it is slow, some instances are left for later, and the answers so far are stored first.

    Args:
        keys: instances that were just read.
        turns: the round of questions to which these belong.
    """
    conditions, clock = context.conditions, context.clock
    now, blocked = clock.earliest(), conditions.blocked(BROKER)
    asked = [
        key
        for key in keys
        if not blocked
        and (instance := context.fleet.instances.get(key)) is not None
        and permit(instance, now) is not None
        and not settles_in(instance, clock.elapsed)
    ]
    confirmed: dict[MachineKey, CatalogState | None] = {}
    left: list[MachineKey] = []
    enough = clock.monotonic() + TOGETHER_SECONDS

    async def ask_in_turn(key: MachineKey) -> Result:
        async def ask() -> Result:
            if clock.monotonic() >= enough:
                left.append(key)
                return Result.LATER
            return await _ask(context, key, confirmed)

        return await turns.ask(ask)

    outcome = await act_on_each(context, asked, ask_in_turn)
    if turns.answered and not turns.silent:
        conditions.clear(BROKER)
    return Checked(confirmed, outcome, tuple(left))


async def _ask(
    context: Context, key: MachineKey, confirmed: dict[MachineKey, CatalogState | None]
) -> Result:
    """Asks about one machine, and notes its permit if it is valid.

    Raises:
        RemoteError: there is no answer.
        HostnameReuseError: the entry is another's.
    """
    instance = context.fleet.instances[key]
    broker = context.broker()
    # Of a member without VM, its last VM's entry is meant.
    own = EntryOf(instance_token(context.project, key), instance.gce_id)
    if is_unknown(instance):  # the entry may be another's: that one is not ours to take out
        entry = await broker.get(key.name)
        if isinstance(entry, CatalogEntry):
            if not own.names(entry):
                raise HostnameReuseError(REUSED)
            if instance.deletion is None and instance.gce_id is not None:
                return await _put_back(context, key, instance, entry)  # it leaves as the others do
        elif isinstance(entry, MethodNotOffered) and instance.catalog is CatalogState.REFUSED:
            raise HostnameReuseError(REUSED)
    # Its own entry was removed before: what has its name since may be another's.
    may_be_anothers = instance.catalog is CatalogState.REMOVED
    answer = await broker.delete_machine(key.name, own if may_be_anothers else None)
    if answer.error is None:
        confirmed[key] = CatalogState.REMOVED
        return Result.CHANGED
    if answer.error == CatalogError.LEASED:
        return await _keep(context, key, instance)
    if answer.error == CatalogError.HOSTNAME_REUSE:
        raise HostnameReuseError(REUSED)
    if answer.error != CatalogError.ENTRY_NOT_FOUND:
        message = f"The Machine Provider did not confirm its deletion: {answer.error}"
        context.conditions.back_off(key, UNCONFIRMED, message)
        return Result.HELD
    if lease_runs(context.fleet.instances[key], context.clock.earliest()):
        message = "The catalog does not hold it, but its last known lease has not ended."
        context.conditions.back_off(key, LEASED, message)
        return Result.HELD
    confirmed[key] = None
    return Result.CHANGED


async def _keep(context: Context, key: MachineKey, instance: Instance) -> Result:
    """The machine is leased: its permit was wrong, and is revoked.

    Nothing is stored of the lease of a member without VM: the end of the lease names the VM.
    """
    if instance.gce_id is None:
        message = "Somebody holds it, but its VM is gone. It is deleted after the lease ends."
        context.conditions.back_off(key, LEASED, message)
        return Result.HELD
    entry = await context.broker().get(key.name)
    if isinstance(entry, CatalogEntry):
        if not entry.is_of(instance_token(context.project, key), instance.gce_id):
            raise HostnameReuseError(REUSED)
        return await _put_back(context, key, instance, entry)
    return await _put_back(context, key, instance, None)


async def _put_back(
    context: Context, key: MachineKey, instance: Instance, entry: CatalogEntry | None
) -> Result:
    """Stores that the catalog holds a machine, contrary to what was known.

    Args:
        instance: its entity as it was when the question was sent.
        entry: its entry; None when it is leased and the catalog does not say until when.
    """
    granted = permit(instance, context.clock.earliest())
    if entry is None or entry.state == "LEASED":
        lease = Lease(context.clock.now(), end_of(entry) if entry is not None else None)
        await context.fleet.change([Change(key, kept(instance, lease))])
        message = "Somebody holds it: the Machine Provider refused its removal. It is not deleted."
        context.conditions.back_off(key, LEASED, message)
    elif instance.deletion is None and is_unknown(instance):
        await context.fleet.change([Change(key, found(CatalogState.CATALOGED))])
    else:  # it has just been released: it is asked about again
        message = "The Machine Provider refused its removal a moment ago."
        context.conditions.back_off(key, LEASED, message)
        return Result.HELD
    context.log.warning(
        "instance.kept",
        **key.log_fields,
        gce_id=str(instance.gce_id),
        permit=granted,
    )
    return Result.HELD


def found(state: CatalogState) -> Apply[Instance]:
    """The change when the catalog knows the machine, or has just removed it.

    Args:
        state: CATALOGED or REMOVED.
    """
    return when_present(lambda instance: found_again(instance, state))


def kept(asked: Instance, lease: Lease) -> Apply[Instance]:
    """The change when somebody holds the machine; another VM of its name is left alone.

    Args:
        asked: the entity as it was when the question was sent.
        lease: who holds it, and until when.
    """

    def apply(instance: Instance) -> Instance:
        return held(instance, lease) if instance.gce_id == asked.gce_id else instance

    return when_present(apply)
