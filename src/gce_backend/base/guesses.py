"""How long the answer to a wrong token waits: ever longer, for each peer by itself."""

from __future__ import annotations

from gce_backend.base.clock import Clock

FIRST_DELAY_SECONDS = 0.25
"""How long the answer to a peer's first wrong token waits; each further one waits twice as long."""
MAX_DELAY_SECONDS = 5.0
FORGIVEN_SECONDS = 60.0
"""How long after its last wrong token a peer starts anew."""
MAX_PEERS = 1000
"""Peers whose wrong tokens are remembered."""


class Guesses:
    """Remembers wrong tokens."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._tries: dict[str, tuple[int, float]] = {}  # the last one comes last

    def __len__(self) -> int:
        """The number of peers that are remembered."""
        return len(self._tries)

    def note(self, peer: str) -> tuple[int, float]:
        """Notes one more wrong token.

        Args:
            peer: the address that it came from.

        Returns:
            How many came in a row, and how many seconds the answer waits.
        """
        now = self._clock.monotonic()
        tries, at = self._tries.pop(peer, (0, now))
        tries = 1 if now - at > FORGIVEN_SECONDS else tries + 1
        self._tries[peer] = (tries, now)
        if len(self._tries) > MAX_PEERS:
            del self._tries[next(iter(self._tries))]
        return tries, min(FIRST_DELAY_SECONDS * 2 ** min(tries - 1, 16), MAX_DELAY_SECONDS)
