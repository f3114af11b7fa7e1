"""access.cfg from LUCI Config: valid revisions alone are used, and the last one outlives all."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Literal

import aiohttp
import pytest
from structlog.testing import capture_logs

from gce_backend.base.errors import NotFoundError
from gce_backend.clients.auth import TokenSource
from gce_backend.configuration.problems import InvalidConfigurationError
from gce_backend.localcloud.faults import Fault
from gce_backend.machine_provider.access_import import LOOK_SECONDS, present_access
from gce_backend.machine_provider.service import ProviderService
from gce_backend.settings.settings import ProviderSettings
from machine_provider.test_service import until_ready
from support.provider_harness import ACCESS, Place, place

ANN, EVE = "ann@example.com", "eve@elsewhere.org"
INVALID = 'groups { name: "A" }\ngroups { }\n'


async def may(p: Place, service: ProviderService, who: str) -> int:
    """The status of a harmless call."""
    return (await p.send(service, "GET", "/api/v1/leases", who))[0]


async def metric(p: Place, service: ProviderService) -> str:
    """Whether the newest access.cfg is in force, by the metrics."""
    text = (await p.send(service, "GET", "/metrics"))[1]
    [line] = [one for one in text.splitlines() if one.startswith("machine_provider_access_valid ")]
    return str(line.split()[1])


@pytest.mark.parametrize("source", ["luci-v1", "luci-v2"])
async def test_the_last_good_revision_is_in_force_whatever_happens(
    tmp_path: Path, source: Literal["luci-v1", "luci-v2"]
) -> None:
    """Nobody before the first; an invalid one and an outage change nothing, nor does a restart."""
    async with place(tmp_path) as p:
        p.access.unlink()
        settings = {
            "access": None,
            "access_source": source,
            "access_service": p.cloud.base_url,
            "access_config_set": p.cloud.options.config_set,
        }
        first = await p.start(**settings)
        await asyncio.sleep(20)
        status, answer = await p.send(first, "GET", "/readyz")
        assert (status, "access.cfg" in answer["problems"]["access"]) == (503, True)
        assert await may(p, first, ANN) == 401
        p.access.write_text(ACCESS, "utf-8")
        await until_ready(p, first)
        assert [await may(p, first, who) for who in (ANN, EVE)] == [200, 403]
        assert await metric(p, first) == "1.0"
        p.access.write_text(INVALID, "utf-8")
        with capture_logs() as logs:
            await asyncio.sleep(3 * LOOK_SECONDS)
        told = [one["error"] for one in logs if one["event"] == "machine_provider.access_invalid"]
        assert len(told) == 1
        assert "access.cfg:1: groups[0]: name:" in told[0]
        assert "access.cfg:2: groups[1]: roles: is required" in told[0]
        assert [await may(p, first, who) for who in (ANN, EVE)] == [200, 403]
        assert await metric(p, first) == "0.0"
        shown = (await p.send(first, "GET", "/"))[1]
        assert "The newest access.cfg is not used." in shown
        assert "groups[1]: roles: is required" in shown
        p.cloud.faults.add(Fault(method="luci_config.*", status=503, times=None))
        await p.kill(first)
        second = await p.start(**settings)
        await until_ready(p, second)
        assert [await may(p, second, who) for who in (ANN, EVE)] == [200, 403]
        p.cloud.faults.clear()
        p.access.write_text(ACCESS.replace("*@example.com", "*@elsewhere.org"), "utf-8")
        await asyncio.sleep(2 * LOOK_SECONDS)
        assert [await may(p, second, who) for who in (ANN, EVE)] == [403, 200]
        assert await metric(p, second) == "1.0"
        asked = {method for method in p.cloud.calls if method.startswith("luci_config.")}
        assert bool(asked & {"luci_config.Configs.GetConfig"}) == (source == "luci-v2")


async def test_what_it_says_now_is_checked_before_a_start(tmp_path: Path) -> None:
    """With all of its problems, as `--check` and `doctor` say it."""
    async with place(tmp_path) as p, aiohttp.ClientSession() as session:
        settings = ProviderSettings(
            access_source="luci-v2",
            access_service=p.cloud.base_url,
            access_config_set=p.cloud.options.config_set,
        )
        tokens = TokenSource(session, metadata_root=p.cloud.base_url, scopes=[], metadata_only=True)
        assert (await present_access(settings, session, tokens)).group("daemon") is not None
        p.access.write_text(INVALID, "utf-8")
        with pytest.raises(InvalidConfigurationError) as error:
            await present_access(settings, session, tokens)
        assert error.value.total == 4
        p.access.unlink()
        with pytest.raises(NotFoundError, match=r"has no access\.cfg"):
            await present_access(settings, session, tokens)
        await tokens.close()


def test_luci_config_needs_an_address_and_a_config_set() -> None:
    """Said when the settings are read."""
    with pytest.raises(ValueError, match=r"needs provider\.access_service"):
        ProviderSettings(access_source="luci-v2", access_service="config.luci.app")
