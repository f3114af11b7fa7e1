"""Judges the Machine Provider's queue by what is stored, whichever process stores it.

Q: no machine has two lessees, and no lessee loses one to anything but the lease's end, which comes
no sooner than it was told; a lease is another's only if it was transferred; what is held after a
failure is held no longer than may be; a request that was cancelled, or whose lease ended, gets
nothing more; while nothing is wrong, no request waits for long while enough fitting machines are
free, and a lessee is soon told that Compute Engine takes the VM back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec

from gce_backend.machine_provider.access.policy import DEFAULT_HOLD_SECONDS

LEASES = "LeaseRequest"
PATIENCE_SECONDS = 240.0
"""How long what is due may take while nothing is wrong: a process may have to take over first."""
SLACK_SECONDS = 2.0
"""How much sooner than it was told a lease may end: times are whole seconds."""
TOLD_SECONDS = 900.0
"""The same for what a lessee is to learn: the daemon says it again every ten minutes."""

Fail = Callable[[str, str], None]


class Request(msgspec.Struct, frozen=True):
    """A stored lease request.

    Attributes:
        state: its state there.
        runs: whether it has machines now.
        ended: whether it is over.
        machines: the host names of its machines.
        count: how many it asks for.
        dimensions: what they must be, each a text.
        user: the lessee.
        end: when the lease ends, in Unix seconds; None for no known end.
        why: why it ended; "" while it has not.
        held: since when the machines are held after a failure, in Unix seconds; None if not.
    """

    state: str
    runs: bool
    ended: bool
    machines: tuple[str, ...]
    count: int
    dimensions: Mapping[str, Any]
    user: str = ""
    end: float | None = None
    why: str = ""
    held: float | None = None

    @property
    def waits(self) -> bool:
        """Whether it has no machine yet."""
        return self.state == "UNTRIAGED"


class QueueJudge:
    """Watches lease requests and machines.

    Args:
        fail: told of a broken promise and what happened.
        time: simulated seconds.
        wall: the true time, in Unix seconds.

    Attributes:
        requests: the stored requests, by name.
        machines: the catalog's records, by host name.
        preempted: since when a VM of this host name is being taken back.
    """

    def __init__(
        self, fail: Fail, time: Callable[[], float], wall: Callable[[], float] = lambda: 0.0
    ) -> None:
        self._wall = wall
        self._may_have: dict[str, set[str]] = {}
        self.requests: dict[str, Request] = {}
        self.machines: dict[str, Mapping[str, Any]] = {}
        self.preempted: dict[str, float] = {}
        self._fail, self._time = fail, time
        self._given_up: set[str] = set()
        self._lessees: dict[str, str] = {}
        self._leased_since: dict[str, float] = {}
        self._quiet_since: float | None = None
        self._stuck_since: float | None = None

    def given_up(self, name: str) -> None:
        """The Machine Provider has confirmed that a request, or its lease, is over."""
        self._given_up.add(name)

    def may_have(self, name: str, user: str) -> None:
        """A lessee is about to transfer a lease to this user."""
        self._may_have.setdefault(name, set()).add(user)

    def user_of(self, name: str) -> str:
        """The lessee of a request, as stored; "" when it is not."""
        return self.requests[name].user if name in self.requests else ""

    def restored(self) -> None:
        """A backup forgets what was confirmed after it."""
        self._given_up.clear()

    def request_changed(
        self, name: str, record: Mapping[str, Any] | None, *, restoring: bool
    ) -> None:
        """A request was stored."""
        before = self.requests.pop(name, None)
        after = None if record is None else _request(record)
        if before is not None and before.runs and (after is None or not after.runs):
            for host in before.machines:
                if self._lessees.get(host) == name:
                    del self._lessees[host]
        if after is None:
            return
        self.requests[name] = after
        if before is not None and not restoring:
            self._judge_change(name, before, after)
        if not after.runs:
            return
        begins = before is None or not before.runs
        if begins and not restoring:
            if before is not None and before.ended:
                self._fail("Q", f"{name[:8]} is over, and gets {after.machines}")
            elif name in self._given_up:
                self._fail("Q", f"{name[:8]} was given up, and gets {after.machines}")
        for host in after.machines:
            other = self._lessees.get(host)
            if other not in {None, name} and begins and not restoring:
                self._fail("Q", f"{host} is leased to {name[:8]}, and {other} has it")
            self._lessees[host] = name
            if begins:
                self._leased_since[host] = self._time()

    def _judge_change(self, name: str, before: Request, after: Request) -> None:
        """What a lessee has stays the lessee's until the end that was told."""
        if after.user != before.user and after.user not in self._may_have.get(name, ()):
            self._fail("Q", f"{name[:8]} is {after.user}'s, and {before.user} has not given it")
        left = (before.end or 0.0) - self._wall()
        if before.runs and not after.runs and after.why == "EXPIRED" and left > SLACK_SECONDS:
            self._fail("Q", f"{name[:8]} ends {left:.0f} s too soon")
        if after.runs and after.held is not None:
            end = after.end
            if end is None or end > after.held + DEFAULT_HOLD_SECONDS + SLACK_SECONDS:
                self._fail("Q", f"{name[:8]} is held for longer than machines may be")

    def machine_changed(
        self, host: str, record: Mapping[str, Any] | None, *, restoring: bool
    ) -> None:
        """A machine's entry was stored."""
        before = self.machines.pop(host, {})
        if record is None:
            return
        self.machines[host] = record
        lessees = before.get("lease", ""), record.get("lease", "")
        if all(lessees) and lessees[0] != lessees[1] and not restoring:
            self._fail("Q", f"{host} goes from one lessee to another without being reclaimed")

    def look(self, *, quiet: bool) -> None:
        """Looks for what should have happened; called now and then.

        Args:
            quiet: whether nothing is wrong, and was not since the last look.
        """
        now = self._time()
        self._judge_machines()
        if not quiet:
            self._quiet_since = self._stuck_since = None
            return
        self._quiet_since = now if self._quiet_since is None else self._quiet_since
        self._judge_waiting(now)
        self._judge_told(now - TOLD_SECONDS)

    def waits_in_vain(self) -> str:
        """A request that has to wait although nothing stands in its way; "" when there is none.

        Whatever order the queue has, it keeps no more machines for others than these ask for.
        """
        waiting = {name: one for name, one in self.requests.items() if one.waits}
        asked = sum(one.count for one in waiting.values())
        for name, one in sorted(waiting.items()):
            free = sum(_is_free(machine, one.dimensions) for machine in self.machines.values())
            if free >= asked:
                return f"{name[:8]} waits for {one.count} machines, and {free} are free"
        return ""

    def _judge_machines(self) -> None:
        for name, request in sorted(self.requests.items()):
            for host in request.machines if request.runs else ():
                if self.machines.get(host, {}).get("lease") != name:
                    self._fail("Q", f"{name[:8]} runs, and {host} is not leased to it")

    def _judge_waiting(self, now: float) -> None:
        found = self.waits_in_vain()
        if not found:
            self._stuck_since = None
            return
        self._stuck_since = now if self._stuck_since is None else self._stuck_since
        if now - self._stuck_since > PATIENCE_SECONDS:
            self._fail("Q", f"{found} for {now - self._stuck_since:.0f} s")
            self._stuck_since = None

    def _judge_told(self, before: float) -> None:
        if self._quiet_since is None or self._quiet_since > before:
            return
        for host, since in sorted(self.preempted.items()):
            if max(since, self._leased_since.get(host, since)) > before:
                continue
            del self.preempted[host]
            machine, name = self.machines.get(host, {}), self._lessees.get(host)
            told = machine.get("preempted_ts") is not None or machine.get("trouble")
            if name is not None and machine.get("lease") == name and not told:
                self._fail("Q", f"{name[:8]} is not told that the VM of {host} is taken back")


def _request(record: Mapping[str, Any]) -> Request:
    state = str(record.get("state", "UNTRIAGED"))
    runs = state == "FULFILLED" and record.get("reclaimed_ts") is None
    hosts: Iterable[str] = (record.get("hostname", ""), *(h for _, h in record.get("others", ())))
    return Request(
        state=state,
        runs=runs,
        ended=state in {"DENIED", "CANCELLED"} or (state == "FULFILLED" and not runs),
        machines=tuple(host for host in hosts if host),
        count=int(record.get("count", 1)),
        dimensions=record.get("request", {}).get("dimensions") or {},
        user=str(record.get("user", "")),
        end=record.get("lease_expiration_ts"),
        why=str(record.get("ended") or ""),
        held=record.get("held_ts") if record.get("held") else None,
    )


def _is_free(machine: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Whether a machine can be leased by somebody who asks for these dimensions."""
    kept = machine.get("cordoned") or machine.get("preempted_ts") is not None
    given = machine.get("dimensions", {})
    fits = all(given.get(name) == value for name, value in wanted.items())
    return machine.get("state") == "AVAILABLE" and not kept and fits
