"""The agent as a real process on a VM of the embedded cloud: keys, hooks, restarts, outages."""

from __future__ import annotations

import ast
import asyncio
import contextlib
import os
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
from click.testing import CliRunner

from gce_backend.base.clock import SystemClock
from gce_backend.cli import main
from gce_backend.localcloud.assembly import embedded_cloud
from gce_backend.localcloud.cloud import Cloud, CloudOptions
from gce_backend.localcloud.faults import Fault
from gce_backend.localcloud.vm_commands import VmCommands
from gce_backend.machine_provider import agent as package
from gce_backend.machine_provider.agent.agent import lease_of
from gce_backend.machine_provider.client import FixedToken, LeaseClient, leased, new_id
from gce_backend.machine_provider.lease_documents import LeaseDocument, MachineTrouble, NewLease
from support.cloud_harness import FLAVOR, TOKEN_PATH
from support.patience import PATIENCE
from support.ssh_server import sshd_path

AGENT = Path(next(iter(package.__path__))) / "agent.py"
ACCOUNT = "worker@local-project.iam.gserviceaccount.com"
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIPd/4 ann@laptop"
OTHER_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIPd/5 ann@laptop"
ZONE = "us-central1-a"
REPORT = "machine_provider.machines.report"
HOOK = """#!/bin/sh
echo "$(basename "$(dirname "$0")") $LEASE_USER $LEASE_LABEL $LEASE_SERVER" >>"$HOME/hooked"
"""


class Vm:
    """A VM whose machine is in the catalog.

    Attributes:
        cloud: its cloud.
        disk: the directory in which its agent runs.
        client: somebody who leases machines.
        token: of this somebody.
    """

    def __init__(self, cloud: Cloud, session: aiohttp.ClientSession, directory: Path) -> None:
        self.cloud = cloud
        self.disk = Path()
        self.client: LeaseClient
        self.token = ""
        self.session = session
        self._directory = directory
        self._headers: dict[str, str] = {}

    async def post(self, path: str, body: Any = None) -> Any:
        """A call of one of the cloud's services that must succeed."""
        url = self.cloud.base_url + path
        async with self.session.post(url, json=body, headers=self._headers) as response:
            assert response.status < 300, await response.text()
            return await response.json() if response.status == 200 else None

    async def create(self) -> None:
        """Makes the VM, and adds its machine."""
        async with self.session.get(self.cloud.base_url + TOKEN_PATH, headers=FLAVOR) as response:
            token = (await response.json())["access_token"]
        self._headers = {"Authorization": f"Bearer {token}"}
        instance = {
            "name": "vm-1",
            "machineType": f"zones/{ZONE}/machineTypes/e2-small",
            "disks": [{"boot": True, "initializeParams": {"sourceImage": IMAGE}}],
            "networkInterfaces": [{"network": "global/networks/default"}],
            "serviceAccounts": [{"email": ACCOUNT, "scopes": []}],
        }
        await self.post(f"{VMS}", instance)
        async with self.session.post(
            f"{self.cloud.base_url}/_localcloud/tokens/ann@example.com"
        ) as response:
            self.token = (await response.json())["access_token"]
        self.client = LeaseClient(self.session, self.cloud.base_url, FixedToken(self.token))
        await until(lambda: list(self._directory.glob("vm-1-*/console.log")))
        [self.disk] = self._directory.glob("vm-1-*")

    async def set_metadata(self, items: dict[str, str]) -> None:
        """Replaces the VM's metadata."""
        async with self.session.get(
            f"{self.cloud.base_url}{VMS}/vm-1", headers=self._headers
        ) as response:
            known = (await response.json())["metadata"]["fingerprint"]
        listed = [{"key": key, "value": value} for key, value in items.items()]
        await self.post(f"{VMS}/vm-1/setMetadata", {"fingerprint": known, "items": listed})

    def metadata_host(self) -> str:
        """The VM's metadata server, as its agent finds it."""
        [service] = [one for one in self.cloud._services if isinstance(one, VmCommands)]
        return next(iter(service._vms.values())).address

    async def catalog(self, *, subscribed: bool = True) -> None:
        """Adds the machine to the catalog, and names the subscription in the VM's metadata."""
        await self.post(
            "/_ah/api/catalog/v1/add_machine",
            {
                "dimensions": {"hostname": "vm-1", "os_family": "LINUX"},
                "policies": {"machine_service_account": ACCOUNT},
            },
        )
        if subscribed:
            await self.set_metadata(
                {
                    "pubsub_subscription": "machine-provider-gce-vm-1",
                    "pubsub_subscription_project": "local-project",
                }
            )
            await until(lambda: "subscribed to" in self.console)

    async def lease(self, **changes: Any) -> LeaseDocument:
        """A lease of the machine."""
        wanted = {"request_id": new_id(), "duration": 3600, "label": "night", "ssh_keys": (KEY,)}
        return await self.client.create(NewLease(**{**wanted, **changes}))

    async def ready(self, lease: LeaseDocument) -> None:
        """Waits until the machine has let the lessee in."""
        async with asyncio.timeout(PATIENCE):
            while not any(ssh.ready for ssh in (await self.client.get(lease.id)).ssh):  # noqa: ASYNC110
                await asyncio.sleep(0.05)

    @property
    def console(self) -> str:
        """What the agent has said."""
        return (self.disk / "console.log").read_text("utf-8")

    def keys(self) -> list[str] | None:
        """The file of keys; None when there is none."""
        file = self.disk / "keys" / "lessee"
        return file.read_text("utf-8").splitlines() if file.exists() else None

    def hooked(self) -> list[str]:
        """Which hooks have run, with what they were told."""
        file = self.disk / "hooked"
        return file.read_text("utf-8").splitlines() if file.exists() else []

    def stored_end(self) -> float:
        """The end of the lease that the agent has stored, in Unix seconds."""
        found = msgspec.json.decode((self.disk / "state.json").read_bytes())
        return float(found["ends_at"])


VMS = f"/compute/v1/projects/local-project/zones/{ZONE}/instances"
IMAGE = "projects/debian-cloud/global/images/family/debian-12"


async def until(condition: Callable[[], object]) -> None:
    """Waits in real time."""
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110 (files set no event)
            await asyncio.sleep(0.02)


@contextlib.asynccontextmanager
async def vm(tmp_path: Path, *options: str) -> AsyncIterator[Vm]:
    """A cloud with one VM, on which the agent runs with hooks for every occasion."""
    for occasion in ("leased", "ending", "preempted", "reclaimed", "connect"):
        hook = tmp_path / "hooks" / f"{occasion}.d" / "hook"
        hook.parent.mkdir(parents=True)
        hook.write_text(HOOK, "utf-8")
        hook.chmod(0o755)
    (tmp_path / "host_key.pub").write_text("ssh-ed25519 AAAA root@vm\n", "utf-8")
    command = [sys.executable, "-I", str(AGENT), "--hooks", str(tmp_path / "hooks")]
    command += ["--state", "state.json", "--authorized-keys", "keys/lessee", "--login", "nobody-1"]
    command += ["--host-keys", str(tmp_path / "*.pub"), "--report-seconds", "0.3", *options]
    given = msgspec.structs.replace(
        CloudOptions().instant(), vm_command=tuple(command), vm_directory=tmp_path / "vms"
    )
    cloud = embedded_cloud(None, SystemClock(), given)
    await cloud.start()
    try:
        async with aiohttp.ClientSession() as session:
            made = Vm(cloud, session, tmp_path / "vms")
            await made.create()
            yield made
    finally:
        await cloud.close()


@pytest.mark.real_time
async def test_a_lessee_is_let_in_for_as_long_as_the_lease_runs(tmp_path: Path) -> None:
    """With hooks around it, and an instruction of the lessee's carried out once."""
    async with vm(tmp_path) as machine:
        await machine.catalog()
        assert machine.keys() is None
        lease = await machine.lease()
        await machine.ready(lease)
        assert machine.keys() == [KEY]
        [ssh] = (await machine.client.get(lease.id)).ssh
        assert (ssh.login, ssh.port, ssh.host_keys) == ("nobody-1", 22, ("ssh-ed25519 AAAA",))
        assert ssh.address.startswith("10.")
        await machine.client.admit(lease.id, OTHER_KEY)
        await machine.ready(lease)
        assert machine.keys() == [OTHER_KEY]
        user = "ann@example.com"
        assert machine.hooked() == [f"leased.d {user} night "]
        url = f"{machine.cloud.base_url}/_ah/api/machine_provider/v1/instruct"
        told = {"request_id": lease.request_id, "instruction": {"swarming_server": "s.example.com"}}
        headers = {"Authorization": f"Bearer {machine.token}"}
        async with machine.session.post(url, json=told, headers=headers) as response:
            assert "error" not in await response.json()
        await until(lambda: len(machine.hooked()) == 2)
        await machine.client.release(lease.id)
        await until(lambda: len(machine.hooked()) == 3)
        assert machine.keys() is None
        assert machine.hooked()[1:] == [
            f"connect.d {user} night s.example.com",
            f"reclaimed.d {user} night ",
        ]


@pytest.mark.real_time
async def test_a_restart_repeats_nothing_and_misses_nothing(tmp_path: Path) -> None:
    """The VM stops, and starts when its lease has ended; without messages, reports tell it all."""
    async with vm(tmp_path) as machine:
        await machine.catalog(subscribed=False)
        lease = await machine.lease()
        await machine.ready(lease)
        await machine.post(f"{VMS}/vm-1/stop")
        await until(lambda: "the lease goes on" in machine.console)
        await machine.client.extend(lease.id, 7200)
        await machine.post(f"{VMS}/vm-1/start")
        await until(lambda: machine.stored_end() > time.time() + 5000)
        assert len(machine.hooked()) == 1
        await machine.post(f"{VMS}/vm-1/stop")
        await until(lambda: machine.console.count("the lease goes on") == 2)
        await machine.client.release(lease.id)
        await machine.post(f"{VMS}/vm-1/start")
        await until(lambda: len(machine.hooked()) == 2)
        assert machine.hooked()[1].startswith("reclaimed.d")
        assert machine.keys() is None


@pytest.mark.real_time
async def test_an_outage_ends_no_lease_before_its_time_and_none_after_it(tmp_path: Path) -> None:
    """The Machine Provider answers not-found, then nothing: the lease's own end counts."""
    async with vm(tmp_path, "--ending-seconds", "3600") as machine:
        await machine.catalog()
        lease = await machine.lease(duration=1800)
        await machine.ready(lease)
        await until(lambda: len(machine.hooked()) == 2)
        assert machine.hooked()[1].startswith("ending.d")
        lost = Fault(method=REPORT, status=404, times=None)
        machine.cloud.faults.add(lost)
        await until(lambda: lost.fired >= 2)
        assert machine.keys() == [KEY]
        machine.cloud.faults.clear()
        await machine.client.extend(lease.id, 4)
        await until(lambda: machine.stored_end() < time.time() + 60)
        machine.cloud.faults.add(Fault(method=REPORT, status=503, times=None))
        stored = machine.stored_end()
        await until(lambda: machine.keys() is None)
        assert time.time() >= stored
        await until(lambda: len(machine.hooked()) == 3)
        assert machine.hooked()[2].startswith("reclaimed.d")


@pytest.mark.real_time
async def test_a_preempted_machine_says_so_while_it_still_runs(tmp_path: Path) -> None:
    """Its lessee learns of it at once, by whatever they wait for, and has 30 s to save work."""
    async with vm(tmp_path) as machine:
        await machine.catalog()
        told: list[MachineTrouble] = []
        wanted = NewLease(request_id=new_id(), duration=3600, ssh_keys=(KEY,))
        async with leased(machine.client, wanted, troubled=told.append) as lease:
            await machine.ready(lease.document)
            await machine.post("/_localcloud/vms/vm-1/preempt?action=DELETE")
            await until(lambda: told)
            assert [(one.machine, one.preempted, one.gone) for one in told] == [
                ("vm-1", True, False)
            ]
            await until(lambda: machine.hooked()[-1].startswith("preempted.d"))
            assert machine.keys() == [KEY]


@pytest.mark.real_time
async def test_the_start_up_script_installs_what_the_metadata_holds(tmp_path: Path) -> None:
    """The agent, a unit that runs it, and an sshd that reads its file of keys; twice the same."""
    written = CliRunner().invoke(main, ["agent", str(tmp_path / "files")])
    assert written.exit_code == 0
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("useradd", "systemctl"):
        (tools / name).write_text(f'#!/bin/sh\necho {name} "$@" >>"{tmp_path}/called"\n', "utf-8")
        (tools / name).chmod(0o755)
    async with vm(tmp_path) as machine:
        text = (tmp_path / "files" / "agent.py").read_text("utf-8")
        await machine.set_metadata({"gce-backend-agent": text})
        environment = {
            "PATH": f"{tools}:{os.environ['PATH']}",
            "DESTDIR": str(tmp_path / "root"),
            "GCE_METADATA_HOST": machine.metadata_host(),
        }
        script = str(tmp_path / "files" / "install.sh")
        for _ in range(2):
            process = await asyncio.create_subprocess_exec("sh", script, env=environment)
            assert await process.wait() == 0
    installed = tmp_path / "root" / "usr" / "local" / "lib" / "gce-backend-agent" / "agent.py"
    assert installed.read_text("utf-8") == text
    system = tmp_path / "root" / "etc"
    unit = (system / "systemd" / "system" / "gce-backend-agent.service").read_text("utf-8")
    assert "ExecStart=/usr/bin/env python3 /usr/local/lib/gce-backend-agent/agent.py" in unit
    config = system / "ssh" / "sshd_config.d" / "gce-backend-agent.conf"
    assert (await sshd_takes(config, tmp_path))["authorizedkeysfile"] == (
        "/var/lib/gce-backend-agent/authorized_keys/%u"
    )
    called = (tmp_path / "called").read_text("utf-8")
    assert "useradd --create-home --shell /bin/bash --password * lessee" in called
    assert "systemctl restart gce-backend-agent.service" in called


async def sshd_takes(config: Path, directory: Path) -> dict[str, str]:
    """What sshd reads in a configuration for the login name lessee."""
    key = directory / "host"
    made = await asyncio.create_subprocess_exec(
        "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)
    )
    assert await made.wait() == 0
    user = "user=lessee,host=h,addr=10.0.0.1"
    asked = await asyncio.create_subprocess_exec(
        *(sshd_path(), "-T", "-f", str(config), "-h", str(key), "-C", user),
        stdout=asyncio.subprocess.PIPE,
    )
    found, _ = await asked.communicate()
    assert asked.returncode == 0
    return dict(line.partition(" ")[::2] for line in found.decode().splitlines())


NEWER = {
    *("StrEnum", "ReprEnum", "UTC", "pairwise", "batched", "file_digest", "chdir", "walk"),
    *("bit_count", "TaskGroup", "Runner", "timeout_at", "aclosing", "from_directory", "TypeAlias"),
    *("ParamSpec", "Self", "NotRequired", "override", "exit_code", "add_note", "hardlink_to"),
    *("slots", "kw_only", "strict", "root_dir", "dir_fd", "process_group", "delete_on_close"),
    *("all_errors", "encoding_errors", "get_annotations", "removeprefix", "removesuffix"),
    *("is_relative_to", "readlink", "with_stem", "randbytes", "nextafter", "lcm", "to_thread"),
    *(
        "cache",
        "cancel_futures",
        "exit_on_error",
        "waitstatus_to_exitcode",
        "pidfd_open",
        "unparse",
    ),
}
"""Attributes and arguments of the standard library that came after Python 3.8."""


def test_what_a_lessee_writes_ends_no_agent() -> None:
    """No variable of a hook can hold a NUL, and no line of the journal two lines."""
    lease = lease_of({"id": "l", "user": "a\x1b[2Jb", "label": "night\x00ly\nbuild"})
    assert lease is not None
    assert lease.environment()["LEASE_LABEL"] == "night ly build"
    assert lease.environment()["LEASE_USER"] == "a [2Jb"


def test_it_runs_on_python_3_8_with_nothing_installed() -> None:
    """Its syntax is 3.8's, and all that it imports is the standard library's."""
    tree = ast.parse(AGENT.read_text("utf-8"), feature_version=(3, 8))
    imported = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(str(node.module).partition(".")[0])
    assert imported <= sys.stdlib_module_names
    assert not imported & {"tomllib", "graphlib", "zoneinfo", "asyncio"}
    attributes = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    keywords = {node.arg for node in ast.walk(tree) if isinstance(node, ast.keyword)}
    assert not (attributes | imported | keywords) & NEWER


def test_it_merges_no_dictionaries_and_subscripts_no_types() -> None:
    """Python 3.8 has `|` for numbers and sets alone, and `list[str]` only where it is not run."""
    tree = ast.parse(AGENT.read_text("utf-8"))
    annotations = {
        id(part)
        for node in ast.walk(tree)
        for held in ("annotation", "returns")
        if isinstance(found := getattr(node, held, None), ast.AST)
        for part in ast.walk(found)
    }
    run = [node for node in ast.walk(tree) if id(node) not in annotations]
    merged = [
        ast.unparse(node)
        for node in run
        if isinstance(node, ast.BinOp | ast.AugAssign) and isinstance(node.op, ast.BitOr)
    ]
    assert merged == [
        "os.O_WRONLY | os.O_CREAT | os.O_EXCL",
        "os.O_WRONLY | os.O_CREAT",
    ]
    subscripted = {ast.unparse(node.value) for node in run if isinstance(node, ast.Subscript)}
    assert not subscripted & {*("dict", "list", "tuple", "set", "type"), *("Mapping", "Sequence")}
