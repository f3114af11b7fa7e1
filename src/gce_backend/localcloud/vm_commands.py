"""What runs on the VMs: one command for each, from when its VM runs until it stops.

The command runs in a directory of its own, the VM's disk: it outlives a stop of the VM, and is
removed with the VM. `console.log` in it is what the command prints. The command's standard input
ends when the cloud does, even by kill -9.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import signal
from pathlib import Path
from typing import Any

import structlog

from gce_backend.localcloud.cloud import Cloud, Service
from gce_backend.localcloud.compute import ComputeService
from gce_backend.localcloud.compute.vm_views import VmFacts
from gce_backend.localcloud.metadata import MetadataService
from gce_backend.localcloud.vm_metadata import VmMetadata

LOOK_SECONDS = 0.1
"""Seconds between two looks at which VMs run."""
MAX_COMMANDS = 50
"""Commands at a time; further VMs run nothing."""
STOP_SECONDS = 5.0
"""Seconds that a command has to stop after SIGTERM."""

log = structlog.stdlib.get_logger()


class VmCommands(Service):
    """The commands of all VMs.

    Args:
        cloud: the cloud that they stand in; its options name the command and the directory.
        compute: knows the VMs.
        metadata: issues their tokens.
    """

    name = "vm_commands"

    def __init__(self, cloud: Cloud, compute: ComputeService, metadata: MetadataService) -> None:
        self._cloud = cloud
        self._compute = compute
        self._metadata = metadata
        self._vms: dict[str, _Vm] = {}
        self._disks = _disks_in(cloud.options.vm_directory.absolute())
        self._spared = 0
        self._stopping: dict[str, asyncio.Task[None]] = {}

    def state(self) -> Any:
        """The process of each VM."""
        return {vm.facts.name: {"pid": vm.pid, "exit_code": vm.code} for vm in self._vms.values()}

    async def run(self) -> None:
        """Starts and stops commands as VMs start and stop; stops them all in the end."""
        try:
            while True:
                await self._look()
                await asyncio.sleep(LOOK_SECONDS)
        finally:
            for vm in self._vms.values():
                self._stop(vm)
            while self._stopping:
                await asyncio.wait(set(self._stopping.values()))

    async def _look(self) -> None:
        existing = {vm.id: vm for vm in self._compute.vms()}
        for key, vm in list(self._vms.items()):
            found = existing.get(key)
            vm.facts = found or vm.facts
            if found is None or not found.is_running:
                del self._vms[key]
                self._stop(vm)
        for key in self._disks.keys() - existing.keys() - self._stopping.keys():
            await asyncio.to_thread(shutil.rmtree, self._disks.pop(key), ignore_errors=True)
        waiting = [
            (key, facts)
            for key, facts in existing.items()
            if facts.is_running and not (key in self._vms or key in self._stopping)
        ]
        room = MAX_COMMANDS - len(self._vms) - len(self._stopping)
        if len(waiting) > max(room, self._spared):
            log.warning("localcloud.vms_without_command", count=len(waiting) - room)
        self._spared = max(len(waiting) - room, 0)
        for key, facts in waiting[: max(room, 0)]:
            directory = self._cloud.options.vm_directory.absolute() / f"{facts.name}-{facts.id}"
            self._disks[key] = directory
            vm = self._vms[key] = _Vm(facts, directory)
            try:
                await vm.start(self._cloud, self._metadata)
            except OSError as error:
                log.error("localcloud.vm_command_failed", instance=facts.name, error=str(error))

    def _stop(self, vm: _Vm) -> None:
        task = asyncio.create_task(vm.stop(), name=f"localcloud.vm.{vm.facts.name}")
        self._stopping[vm.facts.id] = task
        task.add_done_callback(lambda _: self._stopping.pop(vm.facts.id))


class _Vm:
    """A VM that runs, with its metadata server and its command.

    Attributes:
        facts: the VM as it is now.
        address: host and port of its metadata server; "" before it listens.
    """

    def __init__(self, facts: VmFacts, directory: Path) -> None:
        self.facts = facts
        self.address = ""
        self._directory = directory
        self._server: VmMetadata | None = None
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int | None:
        """Of its command; None before it has started."""
        return self._process.pid if self._process else None

    @property
    def code(self) -> int | None:
        """The exit code of its command; None while it runs."""
        return self._process.returncode if self._process else None

    async def start(self, cloud: Cloud, metadata: MetadataService) -> None:
        """Starts the metadata server, and the command in a process group of its own.

        Raises:
            OSError: the command cannot be run, or the directory cannot be made.
        """
        self._directory.mkdir(parents=True, exist_ok=True)
        self._server = VmMetadata(metadata, cloud.clock, lambda: self.facts)
        self.address = await self._server.start()
        environment = {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": str(self._directory),
            "GCE_METADATA_HOST": self.address,
            "GCE_BACKEND_ENDPOINTS__PUBSUB": f"{cloud.base_url}/v1",
            "GCE_BACKEND_PROVIDER__URL": cloud.base_url,
        }
        with (self._directory / "console.log").open("ab") as console:
            self._process = await asyncio.create_subprocess_exec(
                *cloud.options.vm_command,
                stdin=asyncio.subprocess.PIPE,
                stdout=console,
                stderr=console,
                env=environment,
                cwd=self._directory,
                start_new_session=True,
            )

    async def stop(self) -> None:
        """Ends the command and what it has started."""
        if self._process is not None:
            self._signal(signal.SIGTERM)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(STOP_SECONDS):
                    await self._process.wait()
            self._signal(signal.SIGKILL)
            await self._process.wait()
        if self._server is not None:
            await self._server.close()

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None  # noqa: S101 (called for a started process alone)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)


def _disks_in(directory: Path) -> dict[str, Path]:
    """The VMs' directories that an earlier run has left, by the id of the VM."""
    found = (re.fullmatch(r"[a-z][-a-z0-9]*-(\d+)", path.name) for path in directory.glob("*"))
    return {match[1]: directory / match[0] for match in found if match}
