"""Errors of the embedded Compute Engine, as google-cloud-compute surfaces them."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
import requests
from google.api_core import exceptions
from google.oauth2.credentials import Credentials

from gce_backend.localcloud.cloud import CloudOptions
from gce_backend.localcloud.faults import Fault, Faults
from google_clients.compute import (
    OTHER_ZONE,
    ZONE,
    Compute,
    compute_v1,
    described_template,
    wait,
    warning_of,
)
from google_clients.credentials import credentials
from support.patience import PATIENCE
from support.served_cloud import PROJECT, ServedCloud, served_cloud

LIMIT = 5


@pytest.fixture
def hurried_compute() -> Iterator[Compute]:
    """Clients of a cloud that allows few calls in a minute."""
    options = CloudOptions(calls_per_minute=LIMIT).instant()
    with served_cloud(options) as running, Compute(running.url) as clients:
        yield clients


def reason_of(error: exceptions.GoogleAPICallError) -> str:
    """The first error's reason."""
    reason: str = error.errors[0]["reason"]
    return reason


def test_absent_group_is_not_found(compute: Compute) -> None:
    """404 is NotFound and names the resource."""
    with pytest.raises(exceptions.NotFound) as raised:
        compute.groups.get(project=PROJECT, zone=ZONE, instance_group_manager="nowhere")
    assert reason_of(raised.value) == "notFound"
    path = f"projects/{PROJECT}/zones/{ZONE}/instanceGroupManagers/nowhere"
    assert f"The resource '{path}' was not found" in raised.value.message


def test_operation_that_never_was_is_not_found(compute: Compute) -> None:
    """An unknown operation is NotFound, also when it is waited for."""
    for method in (compute.zone_operations.get, compute.zone_operations.wait):
        with pytest.raises(exceptions.NotFound):
            method(project=PROJECT, zone=ZONE, operation="operation-1-2")


def test_second_template_of_a_name_is_a_conflict(compute: Compute) -> None:
    """409 is Conflict, with the reason alreadyExists."""
    compute.make_template("twice")
    with pytest.raises(exceptions.Conflict) as raised:
        compute.templates.insert(
            project=PROJECT, instance_template_resource=described_template("twice")
        )
    assert (raised.value.code, reason_of(raised.value)) == (409, "alreadyExists")


def test_template_in_use_is_not_deleted(compute: Compute) -> None:
    """400 is BadRequest; the reason says that a group uses the template."""
    compute.make_group("in-use", 0)
    with pytest.raises(exceptions.BadRequest) as raised:
        compute.templates.delete(project=PROJECT, instance_template="in-use")
    assert reason_of(raised.value) == "resourceInUseByAnotherResource"


def test_wrong_value_is_a_bad_request(compute: Compute) -> None:
    """400 is BadRequest and names the field."""
    compute.make_group("negative", 1)
    with pytest.raises(exceptions.BadRequest, match="size") as raised:
        compute.groups.resize(
            project=PROJECT, zone=ZONE, instance_group_manager="negative", size=-1
        )
    assert reason_of(raised.value) == "invalid"
    assert len(compute.members("negative")) == 1


def test_stale_fingerprint_fails_the_precondition(compute: Compute) -> None:
    """412 is PreconditionFailed, and the metadata stay as they were."""
    compute.make_group("stale", 1)
    name = compute.members("stale")[0].instance.rpartition("/")[2]
    before = compute.instances.get(project=PROJECT, zone=ZONE, instance=name).metadata
    later, stale = (
        compute_v1.Metadata(
            items=[compute_v1.Items(key="who", value=who)], fingerprint=before.fingerprint
        )
        for who in ("first", "second")
    )
    wait(
        compute.instances.set_metadata(
            project=PROJECT, zone=ZONE, instance=name, metadata_resource=later
        )
    )
    with pytest.raises(exceptions.PreconditionFailed) as raised:
        compute.instances.set_metadata(
            project=PROJECT, zone=ZONE, instance=name, metadata_resource=stale
        )
    assert (raised.value.code, reason_of(raised.value)) == (412, "conditionNotMet")
    kept = compute.instances.get(project=PROJECT, zone=ZONE, instance=name).metadata
    assert [item.value for item in kept.items if item.key == "who"] == ["first"]


def test_request_id_of_another_request_is_refused(compute: Compute) -> None:
    """A requestId that was used for another request is a BadRequest that changes nothing."""
    compute.make_group("mixed-up", 1)
    request = {
        "project": PROJECT,
        "zone": ZONE,
        "instance_group_manager": "mixed-up",
        "request_id": str(uuid.uuid4()),
    }
    wait(compute.groups.resize(request={**request, "size": 2}))
    with pytest.raises(exceptions.BadRequest, match="requestId"):
        compute.groups.resize(request={**request, "size": 3})
    assert len(compute.members("mixed-up")) == 2


def test_too_many_calls_are_forbidden_with_the_limit_that_was_met(
    hurried_compute: Compute,
) -> None:
    """403 rateLimitExceeded is Forbidden; its ErrorInfo names the metric and the limit."""

    def use_up() -> None:
        for _ in range(2 * LIMIT + 1):  # the calls may lie on both sides of a minute's end
            hurried_compute.templates.list(project=PROJECT)

    with pytest.raises(exceptions.Forbidden) as raised:
        use_up()
    error = raised.value
    assert (reason_of(error), error.reason) == ("rateLimitExceeded", "RATE_LIMIT_EXCEEDED")
    assert error.domain == "googleapis.com"
    assert error.metadata["service"] == "compute.googleapis.com"
    assert error.metadata["quota_limit_value"] == str(LIMIT)


def test_quota_that_refuses_a_call_is_forbidden(compute: Compute, faults: Faults) -> None:
    """403 quotaExceeded is Forbidden."""
    faults.add(
        Fault(
            method="compute.instanceTemplates.insert",
            status=403,
            reason="quotaExceeded",
            message="Quota 'INSTANCE_TEMPLATES' exceeded.  Limit: 100.0",
        )
    )
    with pytest.raises(exceptions.Forbidden, match="INSTANCE_TEMPLATES") as raised:
        compute.templates.insert(
            project=PROJECT, instance_template_resource=described_template("one-too-many")
        )
    assert reason_of(raised.value) == "quotaExceeded"


def test_token_of_a_stranger_is_unauthorized(served: ServedCloud) -> None:
    """401 is Unauthorized: a token that the metadata server did not give opens nothing."""
    later = datetime.now(UTC).replace(tzinfo=None) + timedelta(hours=1)
    stranger = Credentials("ya29.mine", refresh_handler=lambda *_, **__: ("ya29.mine", later))
    options = {"api_endpoint": served.url}
    with (
        compute_v1.ZonesClient(credentials=stranger, client_options=options) as zones,
        pytest.raises(exceptions.Unauthorized) as raised,
    ):
        zones.get(project=PROJECT, zone=ZONE)
    assert raised.value.code == 401


def test_token_that_is_good_no_more_is_replaced(served: ServedCloud) -> None:
    """A 401 lets google-auth ask the metadata server again; the caller does not notice."""
    forgetful = credentials(served.url, token="ya29.yesterday")
    options = {"api_endpoint": served.url}
    with compute_v1.ZonesClient(credentials=forgetful, client_options=options) as zones:
        assert zones.get(project=PROJECT, zone=ZONE).name == ZONE
    assert forgetful.token != "ya29.yesterday"


def test_operation_that_ends_in_a_quota_error_raises_it(compute: Compute, faults: Faults) -> None:
    """An operation's httpErrorStatusCode chooses the exception; its errors keep code and text."""
    compute.make_group("quota", 1)
    message = "Quota 'CPUS' exceeded.  Limit: 24.0 in region us-central1."
    faults.add(
        Fault(
            method="compute.instanceGroupManagers.resize",
            kind="operation",
            status=403,
            reason="QUOTA_EXCEEDED",
            message=message,
        )
    )
    operation = compute.groups.resize(
        project=PROJECT, zone=ZONE, instance_group_manager="quota", size=9
    )
    with pytest.raises(exceptions.Forbidden) as raised:
        wait(operation)
    assert [(e.code, e.message) for e in raised.value.errors] == [("QUOTA_EXCEEDED", message)]
    assert (operation.error_code, operation.error_message) == (403, "FORBIDDEN")
    done = compute.zone_operations.get(project=PROJECT, zone=ZONE, operation=operation.name)
    assert done.error.errors[0].code == "QUOTA_EXCEEDED"
    assert len(compute.members("quota")) == 1


def test_operation_that_meets_a_stockout_raises_it(compute: Compute, faults: Faults) -> None:
    """A zone without room surfaces as ServiceUnavailable with Compute's own code."""
    faults.add(
        Fault(
            method="compute.instanceGroupManagers.insert",
            kind="operation",
            status=503,
            reason="ZONE_RESOURCE_POOL_EXHAUSTED",
            message="The zone does not have enough resources available.",
        )
    )
    with pytest.raises(exceptions.ServiceUnavailable) as raised:
        compute.make_group("no-room", 1)
    assert [error.code for error in raised.value.errors] == ["ZONE_RESOURCE_POOL_EXHAUSTED"]


def test_stockout_of_a_zone_is_told_by_the_group(compute: Compute, faults: Faults) -> None:
    """A group whose VMs cannot be made says why, per VM and in its list of errors."""
    stockout = Fault(kind="stockout", zone=OTHER_ZONE, machine_type="e2-small", times=None)
    faults.add(stockout)
    compute.make_group("starved", 1, zone=OTHER_ZONE)
    [member] = compute.members("starved", OTHER_ZONE)
    assert (member.current_action, member.instance_status) == ("CREATING", "")
    [error] = member.last_attempt.errors.errors
    assert error.code == "ZONE_RESOURCE_POOL_EXHAUSTED"
    [told] = compute.groups.list_errors(
        project=PROJECT, zone=OTHER_ZONE, instance_group_manager="starved"
    )
    assert (told.error.code, told.error.message) == (error.code, error.message)
    assert told.instance_action_details.instance == member.instance
    assert told.instance_action_details.action == "CREATING"


def test_quota_of_a_region_is_told_by_the_group() -> None:
    """VMs over a region's quota are not made: each says why, and the region shows its quota."""
    with served_cloud() as running, Compute(running.url) as compute:
        limits = {"us-central1/INSTANCES": 2}
        requests.put(f"{running.url}/_localcloud/quotas", json=limits, timeout=PATIENCE)
        compute.make_group("over", 3)
        members = compute.members("over")
        made = [member for member in members if member.instance_status]
        assert len(made) == 2
        [wanting] = [member for member in members if not member.instance_status]
        [error] = wanting.last_attempt.errors.errors
        assert (error.code, "INSTANCES" in error.message) == ("QUOTA_EXCEEDED", True)
        region = compute.client(compute_v1.RegionsClient).get(project=PROJECT, region="us-central1")
        [quota] = [quota for quota in region.quotas if quota.metric == "INSTANCES"]
        assert (quota.limit, quota.usage) == (2, 2)


def test_filter_that_cannot_be_read_is_a_bad_request(compute: Compute) -> None:
    """A filter is never ignored."""
    request = {"project": PROJECT, "filter": "name ~~ x"}
    with pytest.raises(exceptions.BadRequest, match="filter"):
        compute.templates.list(request=request)


def test_page_token_of_nobody_is_a_bad_request(compute: Compute) -> None:
    """A page token that was not given out is refused, not taken for the beginning."""
    request = {"project": PROJECT, "page_token": "!"}
    with pytest.raises(exceptions.BadRequest, match="pageToken"):
        compute.templates.list(request=request)


def test_server_error_is_tried_again_by_the_library(compute: Compute, faults: Faults) -> None:
    """A 503 to a list is repeated by the library, and the caller does not notice."""
    compute.make_template("patient")
    fault = Fault(method="compute.instanceTemplates.get", status=503)
    faults.add(fault)
    found = compute.templates.get(project=PROJECT, instance_template="patient")
    assert (found.name, fault.fired) == ("patient", 1)


def test_server_error_to_a_mutation_is_raised(compute: Compute, faults: Faults) -> None:
    """A 503 to a mutation is ServiceUnavailable: the library does not repeat it."""
    fault = Fault(method="compute.instanceTemplates.insert", status=503)
    faults.add(fault)
    with pytest.raises(exceptions.ServiceUnavailable):
        compute.make_template("impatient")
    assert fault.fired == 1


def test_unreachable_zone_is_a_warning_in_the_aggregated_list(
    compute: Compute, faults: Faults
) -> None:
    """What a zone does not answer for is a warning, which a careful reader can tell from empty."""
    compute.make_group("cut-off", 1)
    faults.add(Fault(method="compute.instances.aggregatedList", kind="unreachable"))
    listed = dict(compute.instances.aggregated_list(project=PROJECT))
    assert warning_of(listed[f"zones/{ZONE}"]) == "UNREACHABLE"
    assert not listed[f"zones/{ZONE}"].instances
