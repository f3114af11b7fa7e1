"""Where programs run: each on a machine with a clock, as a process that can be killed."""

from __future__ import annotations

from gce_backend.base.clock import Clock
from gce_backend.daemon.daemon import Daemon
from gce_backend.machine_provider.service import ProviderService
from simulation.chance import EPOCH
from simulation.loop import Process, SimulatedLoop


class WorldClock(Clock):
    """The clock of a machine, or the true one.

    Attributes:
        offset: how wrong its wall clock is, in seconds.
    """

    def __init__(self, loop: SimulatedLoop, offset: float = 0.0) -> None:
        super().__init__()
        self._loop = loop
        self.offset = offset

    def now(self) -> float:
        """Wall-clock seconds since the Unix epoch."""
        return EPOCH + self._loop.time() + self.offset

    def monotonic(self) -> float:
        """Simulated seconds."""
        return self._loop.time()


class Host:
    """A machine that a program runs on.

    Attributes:
        name: its name, and its processes' in the network.
        clock: its clock.
        process: the process that runs, or ran last.
    """

    def __init__(self, name: str, clock: WorldClock) -> None:
        self.name = name
        self.clock = clock
        self.process: Process | None = None

    @property
    def is_up(self) -> bool:
        """Whether the program runs here, paused or not."""
        return self.process is not None and not self.process.dead

    @property
    def is_awake(self) -> bool:
        """Whether it runs, and is not paused."""
        return self.process is not None and not self.process.dead and not self.process.paused

    @property
    def program(self) -> Daemon | ProviderService | None:
        """What runs, or ran last."""
        return None


class Node(Host):
    """A machine that a daemon runs on.

    Attributes:
        daemon: the daemon that runs, or ran last.
    """

    def __init__(self, name: str, clock: WorldClock) -> None:
        super().__init__(name, clock)
        self.daemon: Daemon | None = None

    @property
    def program(self) -> Daemon | None:
        """The daemon."""
        return self.daemon

    @property
    def leads(self) -> bool:
        """Whether its daemon works, as far as it knows: one that stands by has no conditions."""
        leadership = self.daemon.leadership if self.daemon is not None else None
        return leadership is None or leadership.term is not None


class ProviderNode(Host):
    """A machine that a process of the Machine Provider runs on.

    Attributes:
        service: what runs, or ran last.
        working: the number of its term; 0 when it does not work, as far as it knows.
    """

    def __init__(self, name: str, clock: WorldClock) -> None:
        super().__init__(name, clock)
        self.service: ProviderService | None = None

    @property
    def program(self) -> ProviderService | None:
        """The service."""
        return self.service

    @property
    def is_ready(self) -> bool:
        """What a load balancer finds out: it answers, and works."""
        return self.is_awake and self.service is not None and not self.service.unready()
