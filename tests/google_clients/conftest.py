"""One embedded cloud for the whole folder, and Google's clients pointed at it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from gce_backend.localcloud.cloud import CloudOptions
from gce_backend.localcloud.faults import Faults
from google_clients.compute import Compute
from support.served_cloud import ServedCloud, served_cloud


@pytest.fixture(scope="package")
def served() -> Iterator[ServedCloud]:
    """A cloud without latencies; each test uses names of its own."""
    with served_cloud() as running:
        yield running


@pytest.fixture(scope="package")
def compute(served: ServedCloud) -> Iterator[Compute]:
    """The Compute Engine clients of that cloud."""
    with Compute(served.url) as clients:
        yield clients


@pytest.fixture
def faults(served: ServedCloud) -> Iterator[Faults]:
    """The faults of that cloud; they end with the test."""
    yield served.cloud.faults
    served.cloud.faults.clear()


@pytest.fixture(scope="module")
def slow_compute() -> Iterator[Compute]:
    """Clients of another cloud, whose operations take a moment, and whose VMs take ages to boot."""
    options = CloudOptions(operation_seconds=0.6, boot_seconds=600.0)
    with served_cloud(options) as running, Compute(running.url) as clients:
        yield clients
