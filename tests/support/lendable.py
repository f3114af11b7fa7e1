"""Machines in the catalog of a served cloud. Use it for tests of what lends them."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from gce_backend.localcloud.cloud import Cloud
from gce_backend.localcloud.machine_provider import MachineProviderService
from support.patience import PATIENCE
from support.served_cloud import ServedCloud


def add(served: ServedCloud, name: str) -> None:
    """Adds a machine."""

    async def ask(clients: Any) -> int:
        headers = {"Authorization": f"Bearer {await clients.tokens.get()}"}
        body = {"dimensions": {"hostname": name, "os_family": "LINUX"}, "policies": {}}
        url = f"{served.url}/_ah/api/catalog/v1/add_machine"
        async with clients.session.post(url, json=body, headers=headers) as response:
            return int(response.status)

    until(lambda: served.ask(ask) == 200)  # 503 while the Machine Provider starts


def until(condition: Callable[[], object]) -> None:
    """Waits in real time."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def catalog(cloud: Cloud) -> dict[str, str]:
    """The machines, and their states."""
    (service,) = [one for one in cloud._services if isinstance(one, MachineProviderService)]
    found: dict[str, str] = service.state().get("catalog", {})
    return found
