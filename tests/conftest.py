"""Shared by all tests: simulated time for async tests, and the referee of what goes over the wire.

Async tests run in simulated time unless marked `real_time`.
"""

from __future__ import annotations

import asyncio
import fcntl
import gc
import inspect
import os
import signal
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
import structlog
from hypothesis import HealthCheck, settings

from gce_backend.settings.settings import SETTINGS_VARIABLE
from support.discovery.exchanges import Tally
from support.records import Records
from support.referee import Referee, watching
from support.simulation import VirtualTimeLoop

TALLY = pytest.StashKey[Tally]()
COLLECTING = pytest.StashKey[int | None]()

settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")  # no example fails for time alone


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> Iterator[None]:
    """Ends what a folder says about logging: it would choose what other tests find logged."""
    yield
    if nextitem is None or nextitem.path.parent != item.path.parent:
        structlog.reset_defaults()


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Runs an `async def` test in an event loop of its own."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    names = inspect.signature(pyfuncitem.obj).parameters
    arguments = {name: pyfuncitem.funcargs[name] for name in names if name in pyfuncitem.funcargs}
    real = pyfuncitem.get_closest_marker("real_time")
    factory = asyncio.new_event_loop if real else VirtualTimeLoop
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(pyfuncitem.obj(**arguments))
    return True


def pytest_configure(config: pytest.Config) -> None:
    """Begins to count exchanges; hears Ctrl-C, and so do the processes that tests start.

    A shell that runs a command in the background has it, and all that it starts, ignore Ctrl-C.
    Processes keep what they compile, so that the next one starts in half the time.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    config.stash[TALLY] = Tally()
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    os.environ[SETTINGS_VARIABLE] = os.devnull  # not those of a cloud that runs beside the tests
    if hasattr(config, "workerinput"):
        config.stash[COLLECTING] = _collecting_first()


def _collecting_first() -> int | None:
    """Lets one worker of xdist collect first: it compiles all tests, and the others load that.

    Returns:
        the file that this worker closes when it has collected; None when another one has.
    """
    lock = os.open(__file__, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        fcntl.flock(lock, fcntl.LOCK_SH)
        os.close(lock)
        return None
    return lock


def pytest_collection_finish(session: pytest.Session) -> None:
    """Lets other workers collect.

    Keeps the garbage collector from looking at all modules and tests again and again.
    """
    if lock := session.config.stash.get(COLLECTING, None):
        os.close(lock)
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


@pytest.fixture(scope="session", autouse=True)
def _referee_of_the_run(
    pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Referee]:
    """Watches from the first fixture to the last one."""
    referee = Referee(Records(tmp_path_factory.mktemp("records")))
    with watching(referee):
        yield referee
    try:
        referee.settle()
    finally:
        pytestconfig.stash[TALLY].add(referee.tally)


@pytest.fixture(autouse=True)
def referee(_referee_of_the_run: Referee) -> Iterator[Referee]:
    """Fails the test whose exchanges are not as Google describes them."""
    yield _referee_of_the_run
    _referee_of_the_run.settle()


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A worker of xdist hands its counts over."""
    output: dict[str, Any] | None = getattr(session.config, "workeroutput", None)
    if output is not None:
        output["referee"] = msgspec.to_builtins(session.config.stash[TALLY])


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """The controller adds a worker's counts; a worker that crashed has none."""
    counted = getattr(node, "workeroutput", {}).get("referee")
    if counted is not None:
        node.config.stash[TALLY].add(msgspec.convert(counted, Tally))


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """One line at the end says what was judged."""
    terminalreporter.write_line(f"referee: {config.stash[TALLY]}")
