"""Time as a value that is passed in, so that tests and replays can turn it themselves."""

from __future__ import annotations

import asyncio
import time
from typing import Protocol


class Clock(Protocol):
    """Two readings of time. Sleeping is asyncio's: `asyncio.sleep`, `asyncio.timeout`."""

    def now(self) -> float:
        """Wall-clock time in seconds since the Unix epoch; may jump."""
        ...

    def monotonic(self) -> float:
        """Seconds since an arbitrary moment; never goes back. For every duration and deadline."""
        ...


class SystemClock:
    """The machine's clock; monotonic time is the running event loop's."""

    def now(self) -> float:
        """Wall-clock time in seconds since the Unix epoch."""
        return time.time()

    def monotonic(self) -> float:
        """The running event loop's time in seconds."""
        return asyncio.get_running_loop().time()
