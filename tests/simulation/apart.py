"""Episodes in processes of their own: nothing of one is left for the next."""

from __future__ import annotations

import multiprocessing
import os
import sys
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, NoReturn, TypeVar

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


class Branch:
    """A fork in the middle of an episode: here it goes on, there it takes another way.

    Attributes:
        is_other: whether this process is the other one, which tells what it found and ends.
        found: what the other one told; None there.

    Raises:
        EpisodeError: the other one died.
    """

    def __init__(self) -> None:
        ours, self._theirs = multiprocessing.Pipe(duplex=False)
        sys.stdout.flush()
        pid = os.fork()
        self.is_other = pid == 0
        self.found: Any = None
        if self.is_other:
            return
        self._theirs.close()
        try:
            self.found = ours.recv()
        except EOFError:
            raise EpisodeError("the process died") from None
        finally:
            ours.close()
            os.waitpid(pid, 0)

    def end(self, found: object) -> NoReturn:
        """Tells what the other process found, and ends it."""
        self._theirs.send(found)
        self._theirs.close()
        os._exit(0)


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
