"""Fixtures for pytest: a leased machine for a whole session of tests.

pytest loads this by itself where gce-backend is installed, so it imports little until it is used.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from gce_backend.machine_provider.lease_documents import LeaseDocument, NewLease

URL = "GCE_BACKEND_PROVIDER__URL"
FAILED = pytest.StashKey[bool]()
"""Whether a test of the session that uses the machines has failed."""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Remembers that a test failed on the session's machines."""
    report = yield
    if report.failed and "machine_lease" in getattr(item, "fixturenames", ()):
        item.session.stash[FAILED] = True
    return report


@pytest.fixture(scope="session")
def machine_request() -> NewLease:
    """The request for the session's machines: a project overrides this in its conftest.py."""
    raise pytest.UsageError("define the fixture machine_request: it returns a NewLease")


@pytest.fixture(scope="session")
def machine_lease(
    machine_request: NewLease, request: pytest.FixtureRequest
) -> Iterator[LeaseDocument]:
    """A lease for the session, of the Machine Provider that GCE_BACKEND_PROVIDER__URL names.

    When a test that uses it has failed, its work has failed: access.cfg may say that the machines
    are held then.

    The caller's tokens are those of `gce_backend.machine_provider.credentials.own_tokens`.
    """
    from gce_backend.machine_provider.client import leased_sync

    url = os.environ.get(URL)
    if not url:
        raise pytest.UsageError(f"{URL} is not set: name the Machine Provider")
    stash = request.session.stash
    with leased_sync(url, None, machine_request, failed=lambda: stash.get(FAILED, False)) as lease:
        yield lease


@pytest.fixture(scope="session")
def leased_machine(machine_lease: LeaseDocument) -> str:
    """The name of the session's machine, the first one of its lease."""
    return machine_lease.machines[0]
