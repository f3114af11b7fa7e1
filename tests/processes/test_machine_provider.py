"""The Machine Provider's command as processes of its own, killed and stopped."""

from __future__ import annotations

import http.client
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
import pytest

from processes.running import Command, Site, site, until
from support.patience import PATIENCE
from support.provider_harness import ACCESS


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Site]:
    """A cloud, and an access.cfg."""
    with site(tmp_path) as made:
        (tmp_path / "access.cfg").write_text(ACCESS, encoding="utf-8")
        made.start_cloud("--no-latency")
        yield made


def start(place: Site, name: str, *arguments: str) -> Command:
    """Starts one process."""
    environment = {
        **place.environment,
        "GCE_BACKEND_ENDPOINTS__TOKENINFO": f"{place.url}/tokeninfo",
        "GCE_BACKEND_PROVIDER__ACCESS": "access.cfg",
        "GCE_BACKEND_PROVIDER__NAMESPACE": "of-its-own",
        "GCE_BACKEND_PROVIDER__PORT": "0",
        "GCE_BACKEND_PROVIDER__TAKEOVER_SECONDS": "3",
    }
    return place.start(name, "machine-provider", *arguments, **environment)


def readiness(process: Command) -> tuple[int, Any]:
    """What /readyz says."""
    parts = urlsplit(process.event("machine_provider.started")["url"])
    connection = http.client.HTTPConnection(parts.netloc, timeout=PATIENCE)
    connection.request("GET", "/readyz")
    response = connection.getresponse()
    body = msgspec.json.decode(response.read())
    connection.close()
    return response.status, body


def test_one_works_and_the_other_takes_over_when_it_is_killed(place: Site) -> None:
    """Kill -9 of the one; SIGTERM ends the other in order, with exit code 0."""
    first = start(place, "first")
    until(lambda: readiness(first)[0] == 200)
    second = start(place, "second")
    until(lambda: "stands by" in str(readiness(second)[1]))
    first.kill()
    until(lambda: readiness(second)[0] == 200)
    assert second.event("leadership.took_over")["epoch"] == 2
    assert second.stop() == 0
    assert second.events("machine_provider.stopped")


def test_check_says_everything_that_is_wrong(place: Site) -> None:
    """A line for each problem, and exit code 1; for a good file, that it is valid."""
    good = start(place, "good", "--check")
    assert good.process.wait() == 0
    assert good.out.read_text() == "access.cfg is valid\n"
    (place.directory / "access.cfg").write_text('groups { name: "A" }\ngroups { }\n')
    bad = start(place, "bad", "--check")
    assert bad.process.wait() == 1
    told = bad.log.read_text()
    assert "access.cfg:1: groups[0]: name:" in told
    assert "access.cfg:2: groups[1]: roles: is required" in told
