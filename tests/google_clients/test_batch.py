"""Batches of google-api-python-client: many calls in one request."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from googleapiclient import discovery
from googleapiclient.discovery_cache import get_static_doc
from googleapiclient.errors import HttpError

from gce_backend.localcloud.faults import Fault, Faults
from google_clients.credentials import credentials
from support.served_cloud import PROJECT, ServedCloud

ZONE = "us-central1-a"


@pytest.fixture(scope="module")
def api(served: ServedCloud) -> Iterator[Any]:
    """The library's Compute Engine: its own discovery document with the cloud's address."""
    document = json.loads(get_static_doc("compute", "v1"))
    document["rootUrl"] = served.url + "/"
    with discovery.build_from_document(document, credentials=credentials(served.url)) as made:
        yield made


class Answers(dict[str, Any]):
    """Bodies and errors by the calls' names."""

    def take(self, name: str, body: Any, error: HttpError | None) -> None:
        """What the library calls back with."""
        self[name] = error if error is not None else body


def in_a_batch(api: Any, **calls: Any) -> Answers:
    """The answers to calls that are sent together."""
    answers = Answers()
    batch = api.new_batch_http_request(callback=answers.take)
    for name, call in calls.items():
        batch.add(call, request_id=name)
    batch.execute()
    return answers


def test_each_call_of_a_batch_has_its_own_answer(api: Any, served: ServedCloud) -> None:
    """Reads, a mutation with a body, and one that fails; each is counted."""
    before = served.cloud.calls.copy()
    snapshot = {"name": "batched", "sourceDisk": f"projects/{PROJECT}/zones/{ZONE}/disks/d"}
    answers = in_a_batch(
        api,
        zone=api.zones().get(project=PROJECT, zone=ZONE),
        machine=api.machineTypes().get(project=PROJECT, zone=ZONE, machineType="e2-small"),
        made=api.snapshots().insert(project=PROJECT, body=snapshot),
        absent=api.instances().get(project=PROJECT, zone=ZONE, instance="nobody"),
    )
    assert answers["zone"]["name"] == ZONE
    assert answers["machine"]["guestCpus"] == 2
    assert answers["made"]["operationType"] == "insert"
    assert answers["absent"].resp.status == 404
    counted = served.cloud.calls - before
    assert counted["compute.batch"] == 1
    assert counted["compute.snapshots.insert"] == counted["compute.zones.get"] == 1


def test_a_fault_strikes_one_call_of_a_batch(api: Any, faults: Faults) -> None:
    """And leaves the others alone."""
    faults.add(Fault(method="compute.zones.get", status=503, reason="backendError", message="no"))
    answers = in_a_batch(
        api,
        first=api.zones().get(project=PROJECT, zone=ZONE),
        second=api.zones().get(project=PROJECT, zone=ZONE),
    )
    assert answers["first"].resp.status == 503
    assert answers["second"]["status"] == "UP"
