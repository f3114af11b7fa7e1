"""Episodes in processes of their own: nothing of one is left for the next."""

from __future__ import annotations

import multiprocessing
import os
import sys
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import TypeVar

T = TypeVar("T")


class EpisodeError(Exception):
    """The simulation itself failed; the message is the traceback."""


def apart(work: Callable[[], T]) -> T:
    """What `work` returns in a forked process, whose memory goes with it.

    Raises:
        EpisodeError: it raised.
    """
    ours, theirs = multiprocessing.Pipe(duplex=False)
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        _work(work, theirs)
    theirs.close()
    try:
        good, found = ours.recv()
    except EOFError:
        good, found = False, "the process died"
    finally:
        ours.close()
        os.waitpid(pid, 0)
    if not good:
        raise EpisodeError(found)
    result: T = found
    return result


def _work(work: Callable[[], T], pipe: Connection) -> None:
    """Works, and leaves without looking back: what is collected at an exit would run."""
    status = 0
    try:
        pipe.send((True, work()))
    except BaseException:  # noqa: BLE001  # whatever it is, the parent tells it
        pipe.send((False, traceback.format_exc()))
        status = 1
    finally:
        pipe.close()
        os._exit(status)
