"""The story of `gce-backend demo`: it comes to its end, and it notices when something is wrong."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import structlog
from click.testing import CliRunner

from gce_backend.base.clock import Clock
from gce_backend.base.errors import BackendError
from gce_backend.cli import main, play
from gce_backend.demo import configuration
from gce_backend.demo.configuration import LARGE, SMALL
from gce_backend.demo.show import Lines, Show
from gce_backend.demo.stage import DemoFailedError, Stage
from gce_backend.demo.story import TITLES, tell
from gce_backend.demo.theatre import EVERY_SECOND, PACE, QUICK, demo_settings, perform
from gce_backend.localcloud.cloud import CloudOptions
from gce_backend.settings.settings import JOB_NAMES, Settings
from support.fleet_harness import CONTROL_TOKEN, PROJECT, World, world
from support.patience import PATIENCE
from support.simulation import VirtualClock

Deed = Callable[[], Coroutine[Any, Any, Any]]


class Memory:
    """Remembers what was told; does a deed when a chapter begins."""

    def __init__(self) -> None:
        self.chapters: list[str] = []
        self.facts: list[str] = []
        self.deeds: dict[str, Deed] = {}
        self.done: list[asyncio.Task[Any]] = []

    def chapter(self, title: str) -> None:
        """Notes it."""
        self.chapters.append(title)
        if title in self.deeds:
            self.done.append(asyncio.create_task(self.deeds[title]()))

    def fact(self, text: str) -> None:
        """Notes it."""
        self.facts.append(text)

    def see(self, counts: Mapping[str, int]) -> None:
        """Nothing to note."""
        assert set(counts) == {"templates", "groups", "VMs", "can be leased", "leased"}


@contextlib.asynccontextmanager
async def stage_in(
    tmp_path: Path, show: Show, patience: float = 120.0, *, start: bool = True
) -> AsyncIterator[tuple[World, Stage]]:
    """A world with the story's settings, and a stage that knows only its addresses."""
    wanted = demo_settings("http://127.0.0.1", PROJECT, tmp_path, token="")
    settings = Settings(deletion=wanted.deletion, rollout=wanted.rollout)
    crons = dict.fromkeys(JOB_NAMES, EVERY_SECOND)
    async with world(tmp_path, settings=settings, options=QUICK, crons=crons, start=False) as w:
        configuration.write(w.config_dir, PROJECT, (SMALL, LARGE))
        if start:
            await w.start_daemon()
        async with Stage(
            cloud_url=w.cloud.base_url,
            fleet_url=lambda: w.daemon.url,
            project=PROJECT,
            config_dir=w.config_dir,
            token=CONTROL_TOKEN,
            show=show,
            patience=patience,
        ) as stage:
            yield w, stage


async def test_the_story_comes_to_its_end(tmp_path: Path) -> None:
    """Its own cloud and daemon: every chapter with its facts, within two minutes of their time."""
    memory = Memory()
    begun = asyncio.get_running_loop().time()
    await perform(memory, tmp_path, options=PACE, clock=VirtualClock(), rng=random.Random(1))
    assert asyncio.get_running_loop().time() - begun < 90
    assert memory.chapters == list(TITLES)
    told = "\n".join(memory.facts)
    for words in (
        "9 VMs run in 3 groups",
        "3 machines are leased",
        "took its place",
        "a job asks for 3 machines, and waits: it asks for 3 machines, and 2 in the catalog fit",
        "the fleet grew for it",
        "never fell below 4 in us-central1-a, 3 in europe-west1-b",
        "the same VMs as before",
        "linux-large is gone",
        "held for approval",
        "everything is gone",
    ):
        assert words in told


async def test_the_story_survives_a_daemon_that_crashes_in_every_chapter(tmp_path: Path) -> None:
    """The stage sees only addresses: another daemon takes over, and the end is the same."""
    memory = Memory()
    async with stage_in(tmp_path, memory) as (w, stage):

        async def crash() -> None:
            for delay in (0.3, 1.1, 2.3):
                await asyncio.sleep(delay)
                await w.restart_daemon()

        memory.deeds = dict.fromkeys(TITLES, crash)
        await tell(stage)
        await asyncio.gather(*memory.done)
        assert len(memory.done) == len(TITLES)


async def test_a_fleet_that_does_not_appear_is_told_with_its_reasons(tmp_path: Path) -> None:
    """A stockout: what is lacking, and what the daemon says about it."""
    memory = Memory()
    async with stage_in(tmp_path, memory, patience=60, start=False) as (w, stage):
        await w.inject("*", kind="stockout", zone="us-central1-b", times=None)
        await w.start_daemon()
        with pytest.raises(DemoFailedError) as caught:
            await tell(stage)
        assert await w.fired() > 0
        assert "0 of 2 VMs of linux-large in us-central1-b" in str(caught.value)
        assert "StockOut" in str(caught.value)
        assert memory.facts == []


async def test_a_job_that_fails_is_among_the_reasons(tmp_path: Path) -> None:
    """What a job raised is told, though no machine and no condition shows it."""
    memory = Memory()
    async with stage_in(tmp_path, memory, patience=20) as (w, stage):
        (w.config_dir / "templates.cfg").unlink()
        with pytest.raises(DemoFailedError, match="the job import-config failed"):
            await stage.until("what never comes", lambda _: ["something"])


async def test_the_loss_of_a_leased_machine_is_noticed(tmp_path: Path) -> None:
    """Somebody deletes it while the template changes: the story does not end well."""
    memory = Memory()
    async with stage_in(tmp_path, memory) as (w, stage):

        async def destroy() -> None:
            await asyncio.sleep(1)
            state = await w.cloud_state()
            catalog = state["machine_provider"]["catalog"]
            name = min(name for name, state in catalog.items() if state == "LEASED")
            zone = (await w.vms())[name]["zone"]
            await w.compute("DELETE", f"zones/{zone}/instances/{name}")

        memory.deeds = {TITLES[4]: destroy}
        with pytest.raises(DemoFailedError, match="was touched"):
            await tell(stage)
        await asyncio.gather(*memory.done)


async def test_too_few_machines_to_lease_from_are_noticed(tmp_path: Path) -> None:
    """Two idle machines vanish for a while during the roll-out."""
    memory = Memory()
    async with stage_in(tmp_path, memory) as (w, stage):

        async def destroy() -> None:
            catalog = (await w.cloud_state())["machine_provider"]["catalog"]
            free = {name for name, state in catalog.items() if state == "AVAILABLE"}
            vms = await w.vms()
            names = [name for name in free & set(vms) if vms[name]["zone"] == "us-central1-a"]
            for name in names:
                await w.compute("DELETE", f"zones/us-central1-a/instances/{name}")

        memory.deeds = {TITLES[4]: destroy}
        with pytest.raises(DemoFailedError, match=r"only \d of 4 machines in us-central1-a"):
            await tell(stage)


async def test_a_cloud_that_goes_away_ends_the_story(tmp_path: Path) -> None:
    """Not a traceback, and not a wait for ever."""
    memory = Memory()
    async with stage_in(tmp_path, memory) as (w, stage):
        memory.deeds = {TITLES[1]: w.cloud.close}
        with pytest.raises(BackendError):
            await tell(stage)


def test_the_command_tells_the_story_for_real(tmp_path: Path) -> None:
    """A process of its own, plain lines, exit code 0, and nothing left behind."""
    done = subprocess.run(
        [sys.executable, "-m", "gce_backend", "demo", "--fast"],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[-1].startswith("everything was verified, in ")
    assert [title for title in TITLES if title not in done.stdout] == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_command_leaves_nothing_behind(tmp_path: Path, number: int) -> None:
    """Exit code 130, no traceback, no temporary directory."""
    with subprocess.Popen(
        [sys.executable, "-u", "-m", "gce_backend", "demo"],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert TITLES[0] in process.stdout.readline()
        process.send_signal(number)
        _, errors = process.communicate(timeout=PATIENCE)
    assert (process.returncode, errors) == (130, "interrupted\n")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def _logging_restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


@pytest.mark.usefixtures("_logging_restored")
def test_what_went_wrong_is_said_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit code 1, the reasons, and the directory with state and log, which stays."""

    async def failing(
        show: Show, directory: Path, *, options: CloudOptions, clock: Clock, rng: random.Random
    ) -> None:
        assert isinstance(show, Lines)
        assert options == QUICK
        show.chapter(TITLES[0])
        raise DemoFailedError("the fleet: not within 90 s\n  0 of 4 VMs")

    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setattr(play, "perform", failing)
    done = CliRunner().invoke(main, ["demo", "--fast"])
    assert done.exit_code == 1
    (kept,) = tmp_path.iterdir()
    assert "0 of 4 VMs" in done.output
    assert str(kept) in done.output
    assert (kept / "daemon.log").exists()
