"""Agents of machines, without their processes: what they report.

Use it where a machine must say something of itself to the embedded cloud's Machine Provider.
"""

from __future__ import annotations

from typing import Any

from support.fleet_harness import PROJECT, World


async def report(w: World, name: str, **said: Any) -> int:
    """What the agent on a VM says; returns the status of the answer."""
    url = w.cloud.base_url
    vm = await w.compute("GET", f"zones/{(await zone_of(w, name))}/instances/{name}")
    claims = {
        "aud": url,
        "sub": "1",
        "email": vm["serviceAccounts"][0]["email"],
        "email_verified": True,
        "google": {"compute_engine": {"project_id": PROJECT, "instance_name": name}},
    }
    async with w.session.post(f"{url}/_localcloud/identity-tokens", json=claims) as response:
        headers = {"Authorization": f"Bearer {(await response.json())['id_token']}"}
    body = {"version": "2", **said}
    path = f"{url}/api/v1/machines/{name}:report"
    async with w.session.post(path, json=body, headers=headers) as response:
        return response.status


async def zone_of(w: World, name: str) -> str:
    """The zone of a machine."""
    [zone] = [machine["zone"] for machine in await w.machines() if machine["name"] == name]
    return str(zone)
