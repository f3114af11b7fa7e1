"""How `shell` and `exec` reach a leased machine: a key for this lease, and the system's `ssh`."""

from __future__ import annotations

import asyncio
import os
import shlex
from collections.abc import Sequence
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.hazmat.primitives.serialization import PublicFormat as Public

from gce_backend.base.errors import OrderError
from gce_backend.cli.output import one_line
from gce_backend.machine_provider.client import LeaseClient
from gce_backend.machine_provider.lease_documents import LeaseDocument, SshAccess

READY_SECONDS = 60.0
"""Seconds that a machine has to let its lessee in."""
SERVER_SECONDS = 10.0
"""Seconds after which a machine whose agent reports no SSH server is taken to have none."""
LOOK_SECONDS = 0.2
ALIVE_SECONDS = 15
"""Seconds between two signs of life of the connection; four missing ones end it."""

_KEY, _KNOWN_HOSTS = "key", "known_hosts"


def new_key(directory: Path) -> str:
    """Makes a key pair for one lease.

    Args:
        directory: where the private key is stored, for nobody else to read.

    Returns:
        The public key.
    """
    private = Ed25519PrivateKey.generate()
    text = private.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
    file = os.open(directory / _KEY, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(file, "wb") as stored:
        stored.write(text)
    return private.public_key().public_bytes(Encoding.OpenSSH, Public.OpenSSH).decode()


async def let_in(client: LeaseClient, lease: LeaseDocument) -> SshAccess:
    """Waits until the first machine of a lease has let the lessee in.

    Raises:
        OrderError: it does not, within `READY_SECONDS`, or it has no SSH server.
        RemoteError: the Machine Provider cannot be reached.
    """
    name = one_line(lease.machines[0])
    clock = asyncio.get_running_loop().time
    begun = clock()
    while True:
        found = await client.get(lease.id)
        if found.ssh and found.ssh[0].ready:
            return found.ssh[0]
        waited = clock() - begun
        if found.agents and not found.ssh and waited > SERVER_SECONDS:
            raise OrderError(f"{name} has no SSH server: its agent reports none (docs/agent.md)")
        if waited > READY_SECONDS:
            why = "its agent" if found.agents else "it has no agent, or its agent"
            raise OrderError(
                f"{name} has not let you in within {waited:.0f} s: {why} is silent (docs/agent.md)"
            )
        await asyncio.sleep(LOOK_SECONDS)


def ssh_command(access: SshAccess, directory: Path, command: Sequence[str]) -> list[str]:
    """The `ssh` command for a machine whose host keys are known from the Machine Provider.

    Args:
        access: how the machine is reached.
        directory: holds the private key; the known hosts are written there.
        command: to run there; empty for a shell.
    """
    lines = [f"{access.machine} {key}\n" for key in access.host_keys]
    (directory / _KNOWN_HOSTS).write_text("".join(lines), "utf-8")
    options = {
        "BatchMode": "yes",
        "IdentitiesOnly": "yes",
        "IdentityFile": directory / _KEY,
        "UserKnownHostsFile": directory / _KNOWN_HOSTS,
        "GlobalKnownHostsFile": "none",
        "StrictHostKeyChecking": "yes",
        "HostKeyAlias": access.machine,
        "ConnectTimeout": 30,
        "ServerAliveInterval": ALIVE_SECONDS,
        "ServerAliveCountMax": 4,
        "LogLevel": "ERROR",
    }
    parts = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
    where = ["-p", str(access.port), "-l", access.login, access.address]
    return ["ssh", *parts, *where, *([shlex.join(command)] if command else [])]
