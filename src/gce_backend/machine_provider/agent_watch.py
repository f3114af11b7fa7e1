"""Which machines' agents report, and which are silent: a machine of a silent agent is not leased.

When an agent last reported is kept in memory alone, since many thousand machines repeat themselves.
A process that takes over gives each agent the whole time again.
"""

from __future__ import annotations

from typing import Literal

import structlog

from gce_backend.base.clock import Clock
from gce_backend.clients.datastore.client import Path
from gce_backend.machine_provider.entities import MachineState, StoredMachine

SILENT_SECONDS = 900.0
"""Seconds without a report after which an agent counts as silent; idle ones report every 300 s."""

AgentVoice = Literal["", "reports", "silent"]
"""Whether an agent reports; "" while it has never done so."""

log = structlog.stdlib.get_logger()


class AgentWatch:
    """What is known of the agents of all machines in the catalog.

    Args:
        required: whether any machine may be leased only while its agent reports; a machine's
            backend may want that of it alone.
        silent_seconds: seconds without a report after which an agent is silent.

    Attributes:
        silent: the machines whose agents are silent.
    """

    def __init__(
        self, clock: Clock, *, required: bool = False, silent_seconds: float = SILENT_SECONDS
    ) -> None:
        self._clock = clock
        self._required = required
        self._silent_seconds = silent_seconds
        self._heard: dict[Path, float] = {}  # the longest silence first
        self.silent: set[Path] = set()

    @property
    def reporting(self) -> int:
        """How many agents report."""
        return len(self._heard)

    def see(self, machine: StoredMachine) -> None:
        """Begins or ends to watch a machine's agent, as the catalog has the machine now."""
        path = machine.path
        if machine.agent is None or machine.state is MachineState.DELETED:
            self.forget(path)
        elif path not in self.silent and path not in self._heard:
            self._heard[path] = self._clock.monotonic()

    def forget(self, path: Path) -> None:
        """Ends to watch a machine's agent."""
        self._heard.pop(path, None)
        self.silent.discard(path)

    def hear(self, machine: StoredMachine) -> bool:
        """Notes a report; returns whether the agent had been silent."""
        was_silent = machine.path in self.silent
        self.forget(machine.path)
        self._heard[machine.path] = self._clock.monotonic()
        if was_silent:
            log.info("machine_provider.agent_reports", instance=machine.hostname)
        return was_silent

    def hush(self) -> list[Path]:
        """The machines whose agents have just become silent."""
        now, found = self._clock.monotonic(), []
        for path, heard in self._heard.items():
            if heard + self._silent_seconds > now:
                break
            found.append(path)
        for path in found:
            del self._heard[path]
            self.silent.add(path)
            log.warning("machine_provider.agent_silent", instance=path[0][1].partition(":")[2])
        return found

    def next_silence(self) -> float | None:
        """Seconds until the next agent is silent if it does not report; None without agents."""
        for heard in self._heard.values():
            return max(heard + self._silent_seconds - self._clock.monotonic(), 0.0)
        return None

    def voice(self, machine: StoredMachine) -> AgentVoice:
        """Whether a machine's agent reports."""
        if machine.agent is None:
            return ""
        return "silent" if machine.path in self.silent else "reports"

    def awaits(self, machine: StoredMachine) -> bool:
        """Whether a machine cannot be leased because its agent has never reported."""
        return self.voice(machine) == "" and self._is_required(machine)

    def allows(self, machine: StoredMachine) -> bool:
        """Whether a machine may be leased, as far as its agent tells."""
        voice = self.voice(machine)
        return voice == "reports" or (voice == "" and not self._is_required(machine))

    def _is_required(self, machine: StoredMachine) -> bool:
        return self._required or machine.requires_agent
