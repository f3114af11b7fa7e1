"""The work of the commands in `lending`: find the Machine Provider, call it, show its answers."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from pathlib import Path

import click
import msgspec

from gce_backend.base.errors import BackendError, OrderError, SettingsError, UnknownNameError
from gce_backend.cli.common import say
from gce_backend.cli.lessee import lessee_of
from gce_backend.cli.output import console, one_line, show, table, when
from gce_backend.machine_provider.client import (
    DeniedError,
    LeaseClient,
    Leased,
    leased,
    new_id,
)
from gce_backend.machine_provider.lease_documents import (
    LeaseDocument,
    MachineDocument,
    MachineList,
    MachineTrouble,
    NewLease,
    Tag,
    WaitDocument,
)
from gce_backend.machine_provider.wire import Dimensions, dimension_text
from gce_backend.model.machine_token import Dimension
from gce_backend.settings.settings import Settings

STOP_SECONDS = 10.0
"""Seconds that a command has to stop after SIGTERM."""


@contextlib.asynccontextmanager
async def client_of(settings: Settings) -> AsyncIterator[LeaseClient]:
    """A client of the Machine Provider that the settings name, with the caller's tokens.

    Raises:
        SettingsError: they name none.
    """
    async with lessee_of(settings) as lessee:
        yield lessee.client()


async def show_leases(settings: Settings, tag: str, *, everybody: bool, as_json: bool) -> None:
    """Prints the leases that wait or run, and those lost within a day."""
    async with client_of(settings) as client:
        found = await client.leases(everybody=everybody, tag=tag)
    if as_json:
        say("", found, as_json=True)
        return
    rows = table("request", "user", "state", "machines", "ends", "remarks")
    for lease in found.leases:
        rows.add(
            lease.request_id,
            lease.user,
            lease.state,
            ", ".join(lease.machines),
            None if lease.ends_at is None else when(lease.ends_at, time.time()),
            _remarks(lease),
        )
    show(rows)


def _remarks(lease: LeaseDocument) -> str | None:
    """What its lessee should know of a lease: why it waits, what is wrong, or why it was lost."""
    if lease.waiting is not None:
        return f"place {lease.waiting.place}: {lease.waiting.message}"
    troubles = [f"{trouble.machine}: {trouble.message}" for trouble in lease.troubles]
    return lease.message or "; ".join(troubles) or None


async def show_catalog(settings: Settings, *, as_json: bool) -> None:
    """Prints the catalog."""
    async with client_of(settings) as client:
        found = await client.machines()
    if as_json:
        say("", found, as_json=True)
        return
    rows = table("machine", "state", "user", "ends", "dimensions")
    for machine in found.machines:
        rows.add(
            machine.name,
            _state_of(machine),
            machine.user,
            None if machine.ends_at is None else when(machine.ends_at, time.time()),
            dimension_text(machine.dimensions),
        )
    show(rows)


async def cordon(
    settings: Settings, names: Sequence[str], backend: str, *, cordon: bool, as_json: bool
) -> bool:
    """Cordons machines of the catalog, or ends that, and prints the outcome for each.

    Args:
        names: of the machines.
        backend: whose they are; "" where only one backend has machines of these names.
        cordon: whether to cordon them.

    Returns:
        Whether all of them could be changed.
    """
    done = []
    async with client_of(settings) as client:
        change = client.cordon if cordon else client.uncordon
        for name in names:
            try:
                done.append(await change(name, backend))
            except DeniedError as error:
                raise OrderError(f"{error} Ask an administrator of the Machine Provider.") from None
            except OrderError as error:
                click.echo(f"{one_line(name)}: {error}", err=True)
    lines = [f"{one_line(machine.name)}: {_state_of(machine)}" for machine in done]
    if lines or as_json:
        say("\n".join(lines), MachineList(machines=tuple(done)), as_json=as_json)
    return len(done) == len(names)


def _state_of(machine: MachineDocument) -> str:
    """A machine's state, with what keeps it from being leased."""
    silent = "agent silent" if machine.agent == "silent" else ""
    cordoned = "cordoned" if machine.cordoned else ""
    return ", ".join(filter(None, (machine.state, silent, cordoned)))


async def extend(settings: Settings, name: str, seconds: int) -> LeaseDocument:
    """Changes the end of a lease to `seconds` from now."""
    async with client_of(settings) as client:
        return await client.extend(await _id_of(client, name), seconds)


async def hold(settings: Settings, name: str, seconds: int | None) -> LeaseDocument:
    """Keeps a lease's machines so that a failure can be investigated."""
    async with client_of(settings) as client:
        return await client.hold(await _id_of(client, name), seconds)


async def transfer(settings: Settings, name: str, user: str) -> LeaseDocument:
    """Makes a lease another user's."""
    async with client_of(settings) as client:
        return await client.transfer(await _id_of(client, name), user)


async def _id_of(client: LeaseClient, name: str) -> str:
    """The id of a lease that waits or runs, by its request id or its id."""
    found = (await client.leases(everybody=True)).leases
    ids = [lease.id for lease in found if name in {lease.id, lease.request_id}]
    if not ids:
        raise UnknownNameError(f"there is no lease {one_line(name)!r} that waits or runs")
    if len(ids) > 1:
        raise UnknownNameError(f"several leases are called {one_line(name)!r}: {', '.join(ids)}")
    return ids[0]


def say_end(lease: LeaseDocument, *, as_json: bool) -> None:
    """Prints until when a lease runs."""
    if as_json:
        say("", lease, as_json=True)
        return
    end = "without end" if lease.ends_at is None else f"until {when(lease.ends_at, time.time())}"
    click.echo(f"{one_line(', '.join(lease.machines))}: {lease.state} {end}")


class Wanted(msgspec.Struct, frozen=True):
    """What a command's options ask for.

    Attributes:
        dimensions: what the machines must be.
        template: adds the dimensions that this template gives its machines; None for none.
        duration: of the lease, in seconds.
        wait: for the machines, in seconds.
        label: the lease's label for people.
        tags: its tags, `KEY:VALUE` each.
        count: how many machines.
    """

    dimensions: Mapping[str, Dimension]
    template: str | None
    duration: float
    wait: float
    label: str
    tags: tuple[str, ...] = ()
    count: int = 1


Act = Callable[[LeaseClient, Leased], Awaitable[int]]
"""What is done with leased machines; returns an exit code."""


async def run_here(
    settings: Settings,
    wanted: Wanted,
    command: Sequence[str],
    hold_failed: float | None,
) -> int:
    """Leases machines, runs a command here, and releases the machines.

    Returns:
        The command's exit code; 128 plus the signal's number when a signal ended it.

    Raises:
        BackendError: there is no machine, or the lease was lost.
        asyncio.CancelledError: SIGINT, SIGTERM or SIGHUP came.
    """

    async def act(_: LeaseClient, lease: Leased) -> int:
        names = lease.document.machines
        return await _run(command, {"MACHINE": names[0], "MACHINES": " ".join(names)})

    return await _run_with(settings, wanted, act, hold_failed=hold_failed)


async def run_there(
    settings: Settings,
    wanted: Wanted,
    command: Sequence[str],
    hold_failed: float | None,
) -> int:
    """Leases a machine, runs a command or a shell there, and releases the machine.

    Args:
        settings: names the Machine Provider.
        wanted: what the options ask for.
        command: to run there; empty for a shell.
        hold_failed: seconds for which the machine is kept when the command fails; None for none.

    Returns:
        The command's exit code; 255 when the connection failed.

    Raises:
        BackendError: there is no machine, it lets nobody in, or the lease was lost.
        asyncio.CancelledError: SIGINT, SIGTERM or SIGHUP came.
    """
    from gce_backend.cli.ssh import let_in, new_key, ssh_command

    with tempfile.TemporaryDirectory(prefix="gce-backend-") as name:
        directory = Path(name)

        async def act(client: LeaseClient, lease: Leased) -> int:
            access = await let_in(client, lease.document)
            return await _run(ssh_command(access, directory, command), {})

        keys = (new_key(directory),)
        return await _run_with(
            settings,
            wanted,
            act,
            hold_failed=hold_failed,
            ssh_keys=keys,
            may_fail=bool(command),  # the code of a shell is that of its last command
        )


async def look(settings: Settings, name: str) -> int:
    """Opens a shell on the first machine of a lease that runs, which goes on when the shell ends.

    Returns:
        The exit code of the last command; 255 when the connection failed.

    Raises:
        BackendError: there is no such lease, or its machine lets nobody in.
        asyncio.CancelledError: SIGINT, SIGTERM or SIGHUP came.
    """
    from gce_backend.cli.ssh import let_in, new_key, ssh_command

    _end_on_signals()
    with tempfile.TemporaryDirectory(prefix="gce-backend-") as directory:
        async with client_of(settings) as client:
            lease = await client.admit(await _id_of(client, name), new_key(Path(directory)))
            access = await let_in(client, lease)
        return await _run(ssh_command(access, Path(directory), ()), {})


def _end_on_signals() -> None:
    """Lets a signal that ends a command cancel the task that calls this."""
    loop, block = asyncio.get_running_loop(), asyncio.current_task()
    assert block is not None  # noqa: S101 -- a coroutine always runs in a task
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, block.cancel)


async def _run_with(
    settings: Settings,
    wanted: Wanted,
    act: Act,
    *,
    hold_failed: float | None,
    ssh_keys: tuple[str, ...] = (),
    may_fail: bool = True,
) -> int:
    """Leases machines, does something with them, and releases them unless they are held.

    Args:
        hold_failed: seconds for which the machines are held when the exit code is not 0; None for
            what access.cfg says.
        may_fail: whether an exit code other than 0 says that the work failed.
    """
    _end_on_signals()
    request = await _request(settings, wanted, ssh_keys)
    held = False
    async with client_of(settings) as client:
        with console(stderr=True).status("waiting for a machine ...") as status:

            def told(waiting: WaitDocument) -> None:
                status.update(f"place {waiting.place}: {one_line(waiting.message)}")

            def troubled(trouble: MachineTrouble) -> None:
                click.echo(f"{one_line(trouble.machine)}: {one_line(trouble.message)}", err=True)

            async with leased(
                client, request, told=told, kept=lambda: held, troubled=troubled
            ) as lease:
                status.stop()
                click.echo(f"leased {one_line(', '.join(lease.document.machines))}", err=True)
                code = await act(client, lease)
                if code and hold_failed is not None:
                    held = await _hold(client, lease.document, int(hold_failed))
                lease.failed = bool(code) and may_fail
    if lease.document.state == "held" and not held:
        _say_held(lease.document)
    return code


async def _request(settings: Settings, wanted: Wanted, ssh_keys: tuple[str, ...]) -> NewLease:
    """A request for a lease, from a command's options.

    Raises:
        click.UsageError: there are no such dimensions, or a tag is malformed.
        UnknownNameError: there is no such template.
    """
    dimensions = dict(wanted.dimensions)
    try:
        tags = msgspec.convert(wanted.tags, tuple[Tag, ...])
    except msgspec.ValidationError:
        raise click.UsageError("--tag: write KEY:VALUE, e.g. branch:main") from None
    if wanted.template is not None:
        from gce_backend.cli.leasing import template_dimensions

        dimensions = {**await template_dimensions(settings, wanted.template), **dimensions}
    try:
        return NewLease(
            request_id=new_id(),
            dimensions=msgspec.convert(dimensions, Dimensions),
            duration=int(wanted.duration),
            count=wanted.count,
            label=wanted.label,
            tags=tags,
            wait=min(int(wanted.wait), 4 * 3600),
            ssh_keys=ssh_keys,
        )
    except msgspec.ValidationError as error:
        raise click.UsageError(f"--dimension: {error}") from None


async def _hold(client: LeaseClient, lease: LeaseDocument, seconds: int) -> bool:
    """Keeps the machines of a failed command, and prints the outcome."""
    try:
        found = await client.hold(lease.id, seconds)
    except BackendError as error:
        click.echo(f"not held: {error}", err=True)
        return False
    _say_held(found)
    return True


def _say_held(lease: LeaseDocument) -> None:
    """Prints until when machines are held, and how to release them."""
    end = when(lease.ends_at or 0, time.time())
    names = one_line(", ".join(lease.machines))
    click.echo(f"{names} held until {end}: gce-backend release {lease.request_id}", err=True)


async def _run(command: Sequence[str], variables: Mapping[str, str]) -> int:
    try:
        process = await asyncio.create_subprocess_exec(*command, env={**os.environ, **variables})
    except OSError as error:
        name = one_line(command[0])
        raise SettingsError(
            f"{name}: cannot be run ({(error.strerror or 'error').lower()})"
        ) from None
    try:
        code = await process.wait()
    finally:
        if process.returncode is None:
            await _stop(process)
    return code if code >= 0 else 128 - code


async def _stop(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    try:
        async with asyncio.timeout(STOP_SECONDS):
            await process.wait()
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
