"""Simulated time: an event loop that jumps to its next timer when nothing else is left to do.

Real sockets on loopback work in it: bytes written in this process are readable at once, so the loop
is idle only when every request in flight has been served.

Use it for a test that needs the clock itself; every async test runs in this loop already.
"""

from __future__ import annotations

import asyncio
import selectors
import time
from typing import Any


class _JumpingSelector(selectors.DefaultSelector):
    """A selector that never blocks: instead of waiting, it moves its owner's clock."""

    offset = 0.0

    def select(self, timeout: float | None = None) -> list[Any]:
        ready = super().select(0)
        if ready or timeout == 0:
            return ready
        if timeout is None:  # no timers: only another thread or the kernel can wake this loop
            return super().select(1)
        ready = super().select(0.0005)  # a moment for the kernel to deliver what was sent
        if not ready:
            self.offset += timeout
        return ready


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """An event loop whose `time()` starts at 0 and moves only by jumping over idle waits."""

    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        """Simulated seconds since the loop was made."""
        return self._jumping.offset


class VirtualClock:
    """A `gce_backend.clock.Clock` on the running loop's simulated time.

    Attributes:
        epoch: the wall-clock time, in Unix seconds, at which the loop's time is 0. Set it to make
            the wall clock jump.
    """

    def __init__(self, epoch: float | None = None) -> None:
        self.epoch = time.time() if epoch is None else epoch

    def now(self) -> float:
        """Wall-clock seconds since the Unix epoch, moving with simulated time."""
        return self.epoch + self.monotonic()

    def monotonic(self) -> float:
        """The running loop's simulated seconds."""
        return asyncio.get_running_loop().time()
