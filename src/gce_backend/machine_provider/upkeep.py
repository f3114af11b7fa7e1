"""The Machine Provider's background work: moves machines between states, and sends messages.

A state is stored before its message is sent, and the state tells which message is due. So a message
is repeated until it is known to be sent, also after a crash, and is never lost.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial

import msgspec
import structlog

from gce_backend.base.clock import Clock
from gce_backend.base.errors import (
    BackendError,
    LeadershipLostError,
    NotFoundError,
    RemoteError,
    TransientError,
)
from gce_backend.clients.datastore.client import Path
from gce_backend.machine_provider import rules
from gce_backend.machine_provider.channels import MAX_MESSAGES, Channels, Notice, each
from gce_backend.machine_provider.entities import (
    MachineState,
    Record,
    StoredLease,
    StoredMachine,
    named_lease_path,
)
from gce_backend.machine_provider.leases import Leases
from gce_backend.machine_provider.losses import without_lost
from gce_backend.machine_provider.records import MAX_CHANGE, Found, Records
from gce_backend.machine_provider.trends import Trends

FIRST_BACKOFF_SECONDS = 0.5
LONGEST_BACKOFF_SECONDS = 60.0
LONGEST_SLEEP_SECONDS = 60.0
"""Seconds between two checks while leases run: the wall clock that ends them may jump."""
FORGET_SECONDS = 3600.0
"""Seconds between two looks for leases that ended long ago."""

log = structlog.stdlib.get_logger()


class Lifecycle:
    """The Machine Provider's own work.

    Args:
        leases: gives machines to requests.
        channels: Pub/Sub.
        trends: gets a sample of the machines and the queue every minute.
        pause_seconds: the pause between two checks for work, in seconds, so that work is batched.
    """

    def __init__(
        self,
        records: Records,
        leases: Leases,
        channels: Channels,
        trends: Trends,
        clock: Clock,
        *,
        pause_seconds: float,
    ) -> None:
        self._records = records
        self._leases = leases
        self._channels = channels
        self._trends = trends
        self._clock = clock
        self._pause = pause_seconds
        self._held_back: dict[Path, tuple[float, int]] = {}
        self._forgotten = float("-inf")

    async def run(self) -> None:
        """Works until it is cancelled; `records` must have been loaded.

        Raises:
            LeadershipLostError: another process leads.
        """
        failures = 0
        while True:
            try:
                async with asyncio.timeout(self._idle_seconds()):
                    await self._records.work.wait()
            except TimeoutError:
                pass
            await asyncio.sleep(self._pause if failures == 0 else _backoff(failures))
            self._records.work.clear()
            try:
                await self._look()
                failures = 0
            except LeadershipLostError:
                raise
            except BackendError as error:
                failures += 1
                self._records.work.set()
                log.warning("machine_provider.failed", error=str(error), failures=failures)

    def _idle_seconds(self) -> float:
        """Seconds until time alone makes work."""
        waits = [max(self._forgotten + FORGET_SECONDS - self._clock.monotonic(), 0.0)]
        waits.append(self._trends.due_in())
        if self._records.next_expiration() is not None or self._records.untriaged:
            waits.append(LONGEST_SLEEP_SECONDS)
        ends = [self._records.next_expiration()]
        ends += [rules.valid_until(lease) for lease in self._records.untriaged.values()]
        now = self._clock.earliest()
        waits += [max(end - now, 0.0) for end in ends if end is not None]
        loss = self._records.next_loss(now)
        waits += [] if loss is None else [loss - now]
        silence = self._records.agents.next_silence()
        waits += [] if silence is None else [silence]
        moment = self._clock.monotonic()
        waits += [max(due - moment, 0.0) for due, _ in self._held_back.values()]
        return min(waits)

    async def _look(self) -> None:
        """Does all work that is due now."""
        begun = self._clock.monotonic()
        await self._records.refresh()
        self._records.hush()
        await self._end_leases(
            [*self._records.expired(self._clock.earliest()), *self._records.released]
        )
        await self._end_lost()
        await self._leases.triage()
        for stage in (self._set_up, self._announce, self._reclaim, self._clear):
            await stage()
        await self._leases.triage()
        await self._forget()
        await self._trends.keep(self._records)
        # A machine that was due and did not fail again no longer backs off.
        self._held_back = {p: held for p, held in self._held_back.items() if held[0] > begun}

    async def _forget(self) -> None:
        """Deletes leases that ended long ago, now and then."""
        if self._clock.monotonic() < self._forgotten + FORGET_SECONDS:
            return
        number = await self._records.forget(self._clock.now())
        self._forgotten = self._clock.monotonic()
        if number:
            log.info("machine_provider.leases_forgotten", count=number)

    async def _end_leases(self, paths: Sequence[Path]) -> None:
        """LEASED -> RECLAIMED, when the lease has expired or was released."""
        leased = self._records.machines[MachineState.LEASED]
        machines = [leased[path] for path in dict.fromkeys(paths) if path in leased]
        for start in range(0, len(machines), MAX_CHANGE // 2):
            part = machines[start : start + MAX_CHANGE // 2]
            leases = [named_lease_path(machine.lease) for machine in part]
            await self._records.change([*(machine.path for machine in part), *leases], self._end)

    async def _end_lost(self) -> None:
        """LEASED -> RECLAIMED, when Compute Engine has taken the VMs of a lease back."""
        now = self._clock.now()
        for name, machines in self._records.lost_leases(now).items():
            decide = partial(without_lost, name=name, now=now)
            await self._records.change([named_lease_path(name), *machines], decide)

    def _end(self, found: Found) -> dict[Path, Record | None]:
        now, earliest = self._clock.now(), self._clock.earliest()
        changes: dict[Path, Record | None] = {}
        for path, machine in found.items():
            if not isinstance(machine, StoredMachine) or machine.state is not MachineState.LEASED:
                continue
            lease, reason = (
                found.get(named_lease_path(machine.lease)),
                rules.ending(machine, earliest),
            )
            if reason is not None:
                changes[path] = machine.in_state(MachineState.RECLAIMED)
                if isinstance(lease, StoredLease):
                    changes[lease.path] = msgspec.structs.replace(
                        lease, reclaimed_ts=int(now), ended=reason
                    )
        return changes

    async def _set_up(self) -> None:
        """NEW -> AVAILABLE."""
        for machines in self._due(MachineState.NEW):
            opened = await self._each(self._channels.open, machines)
            told = await self._tell_backend(opened, "SUBSCRIBED", self._subscription)
            await self._change(
                [machine.path for machine in told],
                _same(told, lambda machine: machine.in_state(MachineState.AVAILABLE)),
            )

    async def _announce(self) -> None:
        """LEASED: notifies the backend, the machine and the lessee."""
        for machines in self._due(MachineState.LEASED):
            unheard = [machine for machine in machines if not machine.announced]
            told = await self._tell_backend(unheard, "LEASED", _lease_attributes)
            told = await self._each(self._tell_machine, told)
            told = await self._tell_lessees(told)
            await self._change([machine.path for machine in told], _same(told, _announced))
            sent = await self._each(self._connect, [m for m in machines if m.connect])
            await self._change([machine.path for machine in sent], _same(sent, _connected(sent)))

    async def _reclaim(self) -> None:
        """RECLAIMED -> DELETED, once the backend and the lessee are notified."""
        for machines in self._due(MachineState.RECLAIMED):
            told = await self._tell_backend(machines, "RECLAIMED", lambda _: {})
            told = await self._tell_lessees(told)
            await self._change(
                [machine.path for machine in told],
                _same(told, lambda machine: machine.in_state(MachineState.DELETED)),
            )

    async def _clear(self) -> None:
        """DELETED -> gone, with its topic and subscription."""
        for machines in self._due(MachineState.DELETED):
            closed = await self._each(self._channels.close, machines)
            await self._change([machine.path for machine in closed], _same(closed, lambda _: None))

    def _due(self, state: MachineState) -> list[list[StoredMachine]]:
        """The machines in a state that still need work, in batches."""
        moment = self._clock.monotonic()
        due = [
            machine
            for path, machine in self._records.machines[state].items()
            if (not machine.announced or machine.connect)
            and self._held_back.get(path, (moment, 0))[0] <= moment
        ]
        return [due[start : start + MAX_CHANGE] for start in range(0, len(due), MAX_CHANGE)]

    async def _change(
        self, paths: Sequence[Path], change: Callable[[StoredMachine], StoredMachine | None]
    ) -> None:
        def decide(found: Found) -> dict[Path, Record | None]:
            return {
                p: change(machine)
                for p, machine in found.items()
                if isinstance(machine, StoredMachine)
            }

        for start in range(0, len(paths), MAX_CHANGE):
            await self._records.change(paths[start : start + MAX_CHANGE], decide)

    async def _tell_backend(
        self,
        machines: Sequence[StoredMachine],
        word: str,
        more: Callable[[StoredMachine], Mapping[str, str]],
    ) -> list[StoredMachine]:
        """Sends a message about each machine to its backend's topic; returns the machines done."""
        topics: dict[str, list[tuple[StoredMachine, Notice]]] = {}
        told = []
        for machine in machines:
            topic = machine.policies.backend_topic
            project = machine.policies.backend_project or self._channels.project
            if not topic or "/" in topic or "/" in project:
                told.append(machine)  # it wants no messages, or its topic cannot exist
                continue
            own = {pair.key: pair.value or "" for pair in machine.policies.backend_attributes}
            named = {**own, "hostname": machine.hostname, **more(machine)}
            where = f"projects/{project}/topics/{topic}"
            topics.setdefault(where, []).append((machine, Notice(where, word, named)))
        batches = [
            letters[start : start + MAX_MESSAGES]
            for letters in topics.values()
            for start in range(0, len(letters), MAX_MESSAGES)
        ]

        async def publish(letters: list[tuple[StoredMachine, Notice]]) -> None:
            await self._channels.publish(letters[0][1].topic, [notice for _, notice in letters])

        failures = await each(publish, batches)
        for letters, failure in zip(batches, failures, strict=True):
            for machine, _ in letters:
                if failure is None:
                    told.append(machine)
                else:
                    self._hold_back(machine, failure)
        return told

    async def _tell_machine(self, machine: StoredMachine) -> None:
        topic = self._channels.topic(machine)
        attributes = {"hostname": machine.hostname, **_lease_attributes(machine)}
        # A deleted topic has no subscribers: the backend is not notified again.
        with contextlib.suppress(NotFoundError):
            await self._channels.publish(topic, [Notice(topic, "LEASED", attributes)])

    async def _connect(self, machine: StoredMachine) -> None:
        topic = self._channels.topic(machine)
        attributes = {"hostname": machine.hostname, "swarming_server": machine.connect}
        with contextlib.suppress(NotFoundError):
            await self._channels.publish(topic, [Notice(topic, "CONNECT", attributes)])

    async def _tell_lessees(self, machines: Sequence[StoredMachine]) -> list[StoredMachine]:
        """Sends lessees the answers to their requests; returns the machines done.

        If a topic does not exist or refuses us, its lessee gets no message; no machine waits.
        """
        wanted = [named_lease_path(machine.lessee) for machine in machines if machine.lessee]
        found = await self._records.read(wanted) if wanted else {}

        async def tell(machine: StoredMachine) -> None:
            lease = found.get(named_lease_path(machine.lessee))
            if isinstance(lease, StoredLease):
                answer = msgspec.json.encode(lease.response).decode()
                notice = Notice(machine.lessee_topic, answer, {})
                try:
                    await self._channels.publish(machine.lessee_topic, [notice])
                except TransientError:
                    raise
                except RemoteError as error:
                    log.warning(
                        "machine_provider.lessee_not_told",
                        instance=machine.hostname,
                        topic=machine.lessee_topic,
                        error=str(error),
                    )

        return await self._each(tell, machines)

    async def _each(
        self, work: Callable[[StoredMachine], Awaitable[None]], machines: Sequence[StoredMachine]
    ) -> list[StoredMachine]:
        """Does the same for every machine; returns those for which it succeeded."""
        failures = await each(work, machines)
        done = []
        for machine, failure in zip(machines, failures, strict=True):
            if failure is None:
                done.append(machine)
            else:
                self._hold_back(machine, failure)
        return done

    def _hold_back(self, machine: StoredMachine, failure: RemoteError) -> None:
        """Backs off a machine after a failure, longer each time."""
        failures = self._held_back.get(machine.path, (0.0, 0))[1] + 1
        self._held_back[machine.path] = (self._clock.monotonic() + _backoff(failures), failures)
        log.warning(
            "machine_provider.machine_held_back", instance=machine.hostname, error=str(failure)
        )

    def _subscription(self, machine: StoredMachine) -> Mapping[str, str]:
        return {
            "subscription": self._channels.subscription(machine).rpartition("/")[2],
            "subscription_project": self._channels.project,
            "topic": self._channels.topic(machine).rpartition("/")[2],
            "topic_project": self._channels.project,
        }


def _backoff(failures: int) -> float:
    return float(min(FIRST_BACKOFF_SECONDS * 2 ** min(failures - 1, 20), LONGEST_BACKOFF_SECONDS))


def _same(
    machines: Sequence[StoredMachine], change: Callable[[StoredMachine], StoredMachine | None]
) -> Callable[[StoredMachine], StoredMachine | None]:
    """Changes a machine only if it still has the state, lease and lessee that were acted on."""
    seen = {machine.path: _stage(machine) for machine in machines}

    def guarded(machine: StoredMachine) -> StoredMachine | None:
        return change(machine) if seen[machine.path] == _stage(machine) else machine

    return guarded


def _stage(machine: StoredMachine) -> tuple[str, MachineState, str, str]:
    return machine.addition_id, machine.state, machine.lease, machine.user


def _announced(machine: StoredMachine) -> StoredMachine:
    return msgspec.structs.replace(machine, announced=True)


def _connected(
    machines: Sequence[StoredMachine],
) -> Callable[[StoredMachine], StoredMachine]:
    """Stores that these machines were sent these servers; a newer one is still to be sent."""
    servers = {machine.path: machine.connect for machine in machines}

    def change(machine: StoredMachine) -> StoredMachine:
        is_told = machine.connect == servers[machine.path]
        return msgspec.structs.replace(machine, connect="") if is_told else machine

    return change


def _lease_attributes(machine: StoredMachine) -> Mapping[str, str]:
    end = machine.lease_expiration_ts
    return {} if end is None else {"lease_expiration_ts": str(end)}
