"""Every source of chance follows from the seed, and every clock from the loop, while one runs.

What the code under test takes by injection is injected. The rest are libraries' own calls, and two
places in the embedded cloud: they are replaced in the process of a simulation, which does nothing
else.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import secrets
import sys
import time
import uuid
from collections.abc import Iterator
from typing import Any
from unittest import mock

import aiohttp.connector
import structlog

from gce_backend.model.keys import Key

EPOCH = 1_900_000_000.0
"""The wall clock at the beginning, Unix seconds: not today's, so that none is taken for it."""
HASH_SEED = "0"


def is_fixed() -> bool:
    """Whether this process iterates over sets of texts in the same order as any other one."""
    return os.environ.get("PYTHONHASHSEED") == HASH_SEED


def fix_hashes() -> None:
    """Starts this program anew with a fixed hash seed, unless it has one."""
    if not is_fixed():
        environ = {**os.environ, "PYTHONHASHSEED": HASH_SEED}
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environ)  # noqa: S606


def silence() -> None:
    """Nothing is logged: the story says what happened."""
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(50), cache_logger_on_first_use=True
    )


def _place(key: Key) -> int:
    """A key's place in a set, which does not depend on the addresses of its class and of None."""
    parent = key.parent
    if parent is None:
        return hash((key.kind, key.name))
    above = parent.parent
    if above is None:  # without a call of its own: the daemon looks keys up all the time
        return hash((key.kind, key.name, hash((parent.kind, parent.name))))
    return hash((key.kind, key.name, hash((parent.kind, parent.name, _place(above)))))


@contextlib.contextmanager
def governed(seed: str, loop: asyncio.AbstractEventLoop) -> Iterator[None]:
    """Chance and time are the simulation's own inside."""
    chance = random.Random(f"chance {seed}")

    class Seeded(random.Random):
        def __init__(self, x: Any = None) -> None:
            super().__init__(chance.getrandbits(64) if x is None else x)

    def wall() -> float:
        return EPOCH + loop.time()

    with contextlib.ExitStack() as stack:
        for target, name, value in (
            (random, "Random", Seeded),
            (os, "urandom", chance.randbytes),
            (secrets, "token_bytes", lambda n=32: chance.randbytes(n)),
            (secrets, "token_hex", lambda n=32: chance.randbytes(n).hex()),
            (secrets, "token_urlsafe", lambda n=32: chance.randbytes(n).hex()),
            (secrets, "randbelow", chance.randrange),
            (uuid, "uuid4", lambda: uuid.UUID(int=chance.getrandbits(128), version=4)),
            (time, "time", wall),
            (time, "monotonic", loop.time),
            (aiohttp.connector, "monotonic", loop.time),
            (aiohttp.connector, "random", chance),
            (Key, "__hash__", _place),
        ):
            stack.enter_context(mock.patch.object(target, name, value))
        random.seed(f"global {seed}")
        yield
