"""The Machine Provider on the embedded Datastore and Pub/Sub, over HTTP."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gce_backend.localcloud.cloud import Cloud, CloudOptions
from gce_backend.localcloud.datastore import DatastoreService
from gce_backend.localcloud.faults import Fault
from gce_backend.localcloud.machine_provider import MachineProviderService
from gce_backend.localcloud.metadata import MetadataService
from gce_backend.localcloud.pubsub import PubSubService
from gce_backend.localcloud.tables import Tables
from gce_backend.machine_provider import rules
from gce_backend.machine_provider.entities import StoredLease, StoredMachine
from gce_backend.machine_provider.wire import Dimensions, LeaseRequestMessage, Policies
from support.simulation import VirtualClock

DAY = 24 * 3600
TOPIC = "projects/fleet-1/topics/machine-provider"
SUBSCRIPTION = "projects/fleet-1/subscriptions/machine-provider"


class Client:
    """Somebody with a token who talks to the cloud."""

    def __init__(self, cloud: Cloud, session: aiohttp.ClientSession, clock: VirtualClock) -> None:
        self.cloud = cloud
        self.clock = clock
        self._session = session

    async def token(self) -> str:
        """A valid token."""
        path = "/computeMetadata/v1/instance/service-accounts/default/token"
        headers = {"Metadata-Flavor": "Google"}
        async with self._session.get(self.cloud.base_url + path, headers=headers) as response:
            return str((await response.json())["access_token"])

    async def send(self, verb: str, path: str, body: Any = None) -> tuple[int, Any]:
        """An authenticated call."""
        headers = {"Authorization": f"Bearer {await self.token()}"}
        url = self.cloud.base_url + path
        async with self._session.request(verb, url, json=body, headers=headers) as response:
            return response.status, await response.json()

    async def __call__(self, method: str, body: Any) -> Any:
        """A call of `api.method` that must succeed."""
        api, _, name = method.partition(".")
        status, answer = await self.send("POST", f"/_ah/api/{api}/v1/{name}", body)
        assert status == 200, answer
        return answer

    async def make_inbox(self) -> None:
        """The backend's topic and subscription."""
        await self.send("PUT", f"/v1/{TOPIC}", {})
        await self.send("PUT", f"/v1/{SUBSCRIPTION}", {"topic": TOPIC})

    async def pull(self, name: str = SUBSCRIPTION) -> list[tuple[str, dict[str, str]]]:
        """What has arrived, acknowledged."""
        found: list[Any] = []
        while True:
            body = {"maxMessages": 1000, "returnImmediately": True}
            _, answer = await self.send("POST", f"/v1/{name}:pull", body)
            received = answer.get("receivedMessages", [])
            if not received:
                break
            found += received
            ids = [message["ackId"] for message in received]
            await self.send("POST", f"/v1/{name}:acknowledge", {"ackIds": ids})
        messages = [one["message"] for one in found]
        return [
            (base64.b64decode(message["data"]).decode(), message.get("attributes", {}))
            for message in messages
        ]

    async def words(self) -> list[str]:
        """What the backend's messages say."""
        return [word for word, _ in await self.pull()]

    async def state_of(self, hostname: str) -> str | None:
        """A machine's state; None when it is not in the catalog."""
        body = {"hostname": hostname, "backend": "GCE"}
        status, entry = await self.send("POST", "/_ah/api/catalog/v1/get", body)
        assert status in {200, 404}
        return str(entry["state"]) if status == 200 else None


@contextlib.asynccontextmanager
async def running(
    state: Path | None = None, clock: VirtualClock | None = None
) -> AsyncIterator[Client]:
    """A cloud with what the Machine Provider needs, and a client of it."""
    clock = clock or VirtualClock()
    cloud = Cloud(Tables(state), clock, CloudOptions(project="broker-1").instant())
    cloud.add(
        MetadataService(cloud),
        DatastoreService(cloud),
        PubSubService(cloud),
        MachineProviderService(cloud),
    )
    await cloud.start()
    try:
        async with aiohttp.ClientSession() as session:
            yield Client(cloud, session, clock)
    finally:
        await cloud.close()


def machine(hostname: str = "vm-1", *, policy: str = "DELETE", **dimensions: Any) -> dict[str, Any]:
    """A machine to be added."""
    return {
        "dimensions": {
            "backend": "GCE",
            "hostname": hostname,
            "os_family": "LINUX",
            "num_cpus": 2,
            "memory_gb": 3.75,
            **dimensions,
        },
        "policies": {
            "backend_project": "fleet-1",
            "backend_topic": "machine-provider",
            "backend_attributes": [{"key": "key", "value": f"key-of-{hostname}"}],
            "machine_service_account": "vm@fleet-1.iam.gserviceaccount.com",
            "on_reclamation": policy,
        },
    }


async def test_added_machine_becomes_available_and_its_backend_hears_of_its_subscription() -> None:
    """NEW -> AVAILABLE: own topic and subscription, policy, SUBSCRIBED with the key."""
    async with running() as mp:
        await mp.make_inbox()
        answer = await mp("catalog.add_machine", machine())
        assert "error" not in answer
        assert answer["machine_addition_request"]["dimensions"]["hostname"] == "vm-1"
        await asyncio.sleep(5)
        assert await mp.state_of("vm-1") == "AVAILABLE"
        (message,) = await mp.pull()
        word, attributes = message
        assert word == "SUBSCRIBED"
        assert attributes["key"] == "key-of-vm-1"
        assert attributes["hostname"] == "vm-1"
        name = "machine-provider-gce-vm-1"
        assert (attributes["subscription"], attributes["subscription_project"]) == (
            name,
            "broker-1",
        )
        assert (attributes["topic"], attributes["topic_project"]) == (name, "broker-1")
        path = f"/v1/projects/broker-1/subscriptions/{name}"
        status, subscription = await mp.send("GET", path)
        assert status == 200
        assert subscription["topic"] == f"projects/broker-1/topics/{name}"
        _, policy = await mp.send("GET", f"{path}:getIamPolicy")
        assert policy["bindings"] == [
            {
                "role": "roles/pubsub.subscriber",
                "members": ["serviceAccount:vm@fleet-1.iam.gserviceaccount.com"],
            }
        ]


async def test_one_attribute_without_a_list_is_accepted() -> None:
    """Some clients send `backend_attributes` as one object."""
    async with running() as mp:
        await mp.make_inbox()
        request = machine()
        request["policies"]["backend_attributes"] = {"key": "key", "value": "alone"}
        await mp("catalog.add_machine", request)
        await asyncio.sleep(5)
        assert (await mp.pull())[0][1]["key"] == "alone"


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"dimensions": {"hostname": "a"}}, "UNSPECIFIED_BACKEND"),
        ({"dimensions": {"backend": "DUMMY", "hostname": "a"}}, "MISMATCHED_BACKEND"),
        ({"dimensions": {"backend": "GCE"}}, "UNSPECIFIED_HOSTNAME"),
        ({"policies": {"backend_project": "fleet-1"}}, "UNSPECIFIED_TOPIC"),
        ({"policies": {"backend_topic": "no topic"}}, "INVALID_TOPIC"),
        ({"policies": {"backend_topic": "top", "backend_project": "P!"}}, "INVALID_PROJECT"),
    ],
)
async def test_bad_addition_is_refused_with_its_reason(change: dict[str, Any], error: str) -> None:
    """Each rule of the catalog has its own word, and nothing is added."""
    async with running() as mp:
        answer = await mp("catalog.add_machine", {**machine("a"), **change})
        assert answer["error"] == error
        assert await mp.state_of("a") is None


async def test_batch_answers_in_order_and_one_bad_machine_spoils_only_itself() -> None:
    """HOSTNAME_REUSE against the catalog and within the batch."""
    async with running() as mp:
        await mp.make_inbox()
        await mp("catalog.add_machine", machine("a"))
        nameless = machine("x")
        del nameless["dimensions"]["hostname"]
        batch = [machine("b"), machine("a"), nameless, machine("c"), machine("c")]
        answer = await mp("catalog.add_machines", {"requests": batch})
        errors = [response.get("error") for response in answer["responses"]]
        assert errors == [None, "HOSTNAME_REUSE", "UNSPECIFIED_HOSTNAME", None, "HOSTNAME_REUSE"]
        hosts = [
            response["machine_addition_request"]["dimensions"].get("hostname")
            for response in answer["responses"]
        ]
        assert hosts == ["b", "a", None, "c", "c"]


async def test_unknown_enum_is_a_bad_request_and_no_token_is_refused() -> None:
    """400 for input that is not of the protocol, 401 without a token."""
    async with running() as mp:
        body = machine("a", os_family="BEOS")
        status, answer = await mp.send("POST", "/_ah/api/catalog/v1/add_machine", body)
        assert status == 400
        assert "os_family" in answer["error"]["message"]
        url = f"{mp.cloud.base_url}/_ah/api/catalog/v1/add_machine"
        async with aiohttp.ClientSession() as session, session.post(url, json=body) as response:
            assert response.status == 401


async def test_deleted_machine_is_gone_with_its_topic_and_its_name_is_free() -> None:
    """delete_machine: ENTRY_NOT_FOUND before and after, the channel goes, re-adding works."""
    async with running() as mp:
        await mp.make_inbox()
        name = {"dimensions": {"hostname": "vm-1"}}
        assert (await mp("catalog.delete_machine", name))["error"] == "ENTRY_NOT_FOUND"
        await mp("catalog.add_machine", machine())
        await asyncio.sleep(5)
        answer = await mp("catalog.delete_machine", name)
        assert answer == {"machine_deletion_request": name}
        assert await mp.state_of("vm-1") is None
        assert (await mp("catalog.delete_machine", name))["error"] == "ENTRY_NOT_FOUND"
        await asyncio.sleep(5)
        topic = "/v1/projects/broker-1/topics/machine-provider-gce-vm-1"
        assert (await mp.send("GET", topic))[0] == 404
        assert "error" not in await mp("catalog.add_machine", machine())
        await asyncio.sleep(5)
        assert await mp.state_of("vm-1") == "AVAILABLE"
        assert await mp.words() == ["SUBSCRIBED", "SUBSCRIBED"]


async def test_machine_added_again_while_its_old_channel_goes_stays_and_gets_a_new_one() -> None:
    """A name that is used again while its old channel is being removed."""
    async with running() as mp:
        await mp.make_inbox()
        await mp("catalog.add_machine", machine())
        await asyncio.sleep(5)
        slow = Fault(
            method="pubsub.projects.topics.delete", kind="latency", seconds=5.0, inner=True
        )
        mp.cloud.faults.add(slow)
        await mp("catalog.delete_machine", {"dimensions": {"hostname": "vm-1"}})
        await asyncio.sleep(2)
        assert slow.fired == 1
        assert "error" not in await mp("catalog.add_machine", machine())
        await asyncio.sleep(20)
        assert await mp.state_of("vm-1") == "AVAILABLE"
        topic = "/v1/projects/broker-1/topics/machine-provider-gce-vm-1"
        assert (await mp.send("GET", topic))[0] == 200


async def test_lease_is_fulfilled_announced_and_ends_at_its_time() -> None:
    """AVAILABLE -> LEASED -> RECLAIMED -> gone, and what the backend and the machine hear."""
    async with running() as mp:
        await mp.make_inbox()
        await mp("catalog.add_machine", machine())
        await asyncio.sleep(5)
        await mp.pull()
        request = {"request_id": "r1", "dimensions": {"num_cpus": "2"}, "duration": "600"}
        lease = await mp("machine_provider.lease", request)
        assert (lease["state"], lease["hostname"]) == ("FULFILLED", "vm-1")
        assert lease["lease_expiration_ts"] == pytest.approx(mp.clock.now() + 600, abs=10)
        name = {"dimensions": {"hostname": "vm-1"}}
        assert (await mp("catalog.delete_machine", name))["error"] == "LEASED"
        entry = await mp("catalog.get", {"hostname": "vm-1"})
        assert entry["state"] == "LEASED"
        assert entry["lease_expiration_ts"] == lease["lease_expiration_ts"]
        await asyncio.sleep(30)
        expected = {"hostname": "vm-1", "lease_expiration_ts": str(lease["lease_expiration_ts"])}
        assert await mp.pull() == [("LEASED", {"key": "key-of-vm-1", **expected})]
        own = "projects/broker-1/subscriptions/machine-provider-gce-vm-1"
        assert await mp.pull(own) == [("LEASED", expected)]
        await asyncio.sleep(540)
        assert await mp.state_of("vm-1") == "LEASED"
        assert await mp.pull() == []
        await asyncio.sleep(60)
        assert await mp.state_of("vm-1") is None
        assert await mp.pull() == [("RECLAIMED", {"key": "key-of-vm-1", "hostname": "vm-1"})]
        assert (await mp.send("GET", f"/v1/{own}"))[0] == 404


@pytest.mark.parametrize(
    ("policy", "state"), [("MAKE_AVAILABLE", "AVAILABLE"), ("RECLAIM", "RECLAIMED")]
)
async def test_released_machine_follows_its_policy(policy: str, state: str) -> None:
    """Release ends a lease early; only DELETE removes the entry; RECLAIMED is said once."""
    async with running() as mp:
        await mp.make_inbox()
        await mp("catalog.add_machine", machine(policy=policy))
        await asyncio.sleep(5)
        await mp("machine_provider.lease", {"request_id": "r1", "indefinite": True})
        entry = await mp("catalog.get", {"hostname": "vm-1"})
        assert entry["leased_indefinitely"] is True
        await asyncio.sleep(5)
        answer = await mp("machine_provider.release", {"request_id": "r1"})
        assert "error" not in answer
        await asyncio.sleep(100)
        assert await mp.state_of("vm-1") == state
        assert await mp.words() == ["SUBSCRIBED", "LEASED", "RECLAIMED"]
        again = await mp("machine_provider.release", {"request_id": "r1"})
        assert again["error"] == "ALREADY_RECLAIMED"


async def test_release_errors() -> None:
    """Unknown requests and those still waiting are told apart."""
    async with running() as mp:
        await mp("machine_provider.lease", {"request_id": "waits", "duration": 60})
        body = {"requests": [{"request_id": "nobody"}, {"request_id": "waits"}]}
        answer = await mp("machine_provider.batched_release", body)
        errors = [response["error"] for response in answer["responses"]]
        assert errors == ["NOT_FOUND", "NOT_FULFILLED"]


async def test_same_lease_request_again_gets_the_same_answer_and_another_is_refused() -> None:
    """A request id names one request of a user."""
    async with running() as mp:
        await mp.make_inbox()
        await mp("catalog.add_machines", {"requests": [machine("a"), machine("b")]})
        await asyncio.sleep(5)
        request = {"request_id": "r1", "duration": 600}
        first = await mp("machine_provider.lease", request)
        await asyncio.sleep(20)
        assert await mp("machine_provider.lease", request) == first
        other = await mp("machine_provider.lease", {"request_id": "r1", "duration": 601})
        assert other["error"] == "REQUEST_ID_REUSE"
        states = {await mp.state_of(name) for name in ("a", "b")}
        assert states == {"LEASED", "AVAILABLE"}


async def test_waiting_request_gets_the_machine_that_comes_and_a_late_one_is_denied() -> None:
    """UNTRIAGED -> FULFILLED when a machine becomes available, DENIED when it is too late."""
    async with running() as mp:
        await mp.make_inbox()
        end = int(mp.clock.now()) + 100
        long = {"request_id": "long", "indefinite": True, "dimensions": {"os_family": "LINUX"}}
        short = {
            "request_id": "short",
            "lease_expiration_ts": end,
            "dimensions": {"os_family": "WINDOWS"},
        }
        answer = await mp("machine_provider.batched_lease", {"requests": [short, long]})
        assert [response["state"] for response in answer["responses"]] == ["UNTRIAGED"] * 2
        await asyncio.sleep(200)
        await mp(
            "catalog.add_machines", {"requests": [machine("l"), machine("w", os_family="WINDOWS")]}
        )
        await asyncio.sleep(5)
        assert (await mp("machine_provider.lease", short))["state"] == "DENIED"
        late = await mp("machine_provider.lease", long)
        assert (late["state"], late["hostname"]) == ("FULFILLED", "l")
        assert await mp.state_of("w") == "AVAILABLE"


NOW = 1_700_000_000.0


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({}, "LEASE_LENGTH_UNSPECIFIED"),
        ({"indefinite": False}, "LEASE_LENGTH_UNSPECIFIED"),
        ({"duration": 1, "indefinite": True}, "MUTUAL_EXCLUSION_ERROR"),
        ({"duration": 1, "lease_expiration_ts": int(NOW) + 9}, "MUTUAL_EXCLUSION_ERROR"),
        ({"duration": 0}, "NONPOSITIVE_DEADLINE"),
        ({"lease_expiration_ts": int(NOW)}, "LEASE_EXPIRATION_TS_ERROR"),
        ({"duration": 21 * DAY + 1}, "LEASE_TOO_LONG"),
        ({"lease_expiration_ts": int(NOW) + 21 * DAY + 1}, "LEASE_TOO_LONG"),
        ({"duration": 1, "pubsub_project": "fleet-1"}, "UNSPECIFIED_TOPIC"),
        ({"duration": 1, "pubsub_topic": "?"}, "INVALID_TOPIC"),
        ({"duration": 1, "pubsub_topic": "top", "pubsub_project": "?"}, "INVALID_PROJECT"),
        ({"duration": 21 * DAY}, None),
        ({"lease_expiration_ts": int(NOW) + 21 * DAY}, None),
        ({"indefinite": True}, None),
    ],
)
def test_lease_rules(fields: dict[str, Any], error: str | None) -> None:
    """Each rule of lease lengths and topics, at its edge."""
    assert rules.lease_error(LeaseRequestMessage(request_id="r", **fields), NOW) == error


@given(
    st.lists(st.sampled_from(["LINUX", "WINDOWS", None]), max_size=12),
    st.lists(st.sampled_from(["LINUX", "WINDOWS"]), max_size=12),
)
def test_pairing_gives_no_machine_twice_and_leaves_no_fitting_one(
    asked: list[Any], offered: list[Any]
) -> None:
    """Each machine goes to one request at most; who gets none has none left that fits."""
    leases = [
        StoredLease(
            user="u",
            request=LeaseRequestMessage(
                request_id=str(place), dimensions=Dimensions(os_family=family)
            ),
            request_hash="",
            created=0.0,
        )
        for place, family in enumerate(asked)
    ]
    machines = [
        StoredMachine(
            backend="GCE",
            hostname=str(place),
            addition_id=str(place),
            dimensions=Dimensions(os_family=family),
            policies=Policies(),
        )
        for place, family in enumerate(offered)
    ]
    pairs = list(rules.pair(leases, machines))
    given_away = [found.hostname for _, found in pairs]
    assert len(set(given_away)) == len(given_away)
    assert all(rules.matches(lease.request.dimensions, one.dimensions) for lease, one in pairs)
    served = {lease.request.request_id for lease, _ in pairs}
    left = [one for one in machines if one.hostname not in given_away]
    for lease in leases:
        if lease.request.request_id not in served:
            assert not any(rules.matches(lease.request.dimensions, one.dimensions) for one in left)


async def test_instruction_reaches_the_leased_machine_and_is_acknowledged() -> None:
    """on_lease and instruct -> poll (PENDING -> RECEIVED) -> ack (EXECUTED)."""
    async with running() as mp:
        await mp.make_inbox()
        await mp("catalog.add_machine", machine(policy="MAKE_AVAILABLE"))
        await asyncio.sleep(5)
        name = {"hostname": "vm-1", "backend": "GCE"}
        assert await mp("machine.poll", name) == {}
        server = {"swarming_server": "https://swarming.example.com"}
        request = {"request_id": "r", "indefinite": True, "on_lease": server}
        await mp("machine_provider.lease", request)
        assert await mp("machine.poll", name) == {"instruction": server, "state": "RECEIVED"}
        await mp("machine.ack", name)
        assert (await mp("machine.poll", name))["state"] == "EXECUTED"
        other = {"swarming_server": "https://other.example.com"}
        answer = await mp("machine_provider.instruct", {"request_id": "r", "instruction": other})
        assert "error" not in answer
        assert await mp("machine.poll", name) == {"instruction": other, "state": "RECEIVED"}
        await mp("machine_provider.release", {"request_id": "r"})
        assert await mp("machine.poll", name) == {}
        late = await mp("machine_provider.instruct", {"request_id": "r", "instruction": other})
        assert late["error"] == "ALREADY_RECLAIMED"
        assert (await mp.send("POST", "/_ah/api/machine/v1/poll", {"hostname": "none"}))[0] == 404


async def test_capacity_is_noted() -> None:
    """modify_capacity answers with its request, or with why not."""
    async with running() as mp:
        request = {"dimensions": {"backend": "GCE", "os_family": "LINUX"}, "count": 7}
        answer = await mp("catalog.modify_capacity", request)
        assert answer == {"capacity_modification_request": request}
        nobody = {"dimensions": {"os_family": "LINUX"}, "count": 7}
        assert (await mp("catalog.modify_capacity", nobody))["error"] == "UNSPECIFIED_BACKEND"


async def test_messages_are_repeated_until_published_and_nothing_is_lost_on_restart(
    tmp_path: Path,
) -> None:
    """Pub/Sub is down during a whole life; after a restart from the file every message comes."""
    state, clock = tmp_path / "state", VirtualClock()
    async with running(state, clock) as mp:
        await mp.make_inbox()
        await mp("catalog.add_machine", machine())
        await asyncio.sleep(5)
        down = Fault(method="pubsub.projects.topics.publish", times=None, inner=True)
        mp.cloud.faults.add(down)
        await mp("machine_provider.lease", {"request_id": "r", "duration": 60})
        await asyncio.sleep(30)
        assert down.fired > 2
        assert await mp.words() == ["SUBSCRIBED"]
        await asyncio.sleep(60)
        assert await mp.state_of("vm-1") == "RECLAIMED"
    async with running(state, clock) as mp:
        await asyncio.sleep(5)
        assert await mp.words() == ["RECLAIMED"]
        assert await mp.state_of("vm-1") is None


async def test_machine_whose_topic_is_missing_waits_alone() -> None:
    """A backend topic that does not exist holds back its own machine, with growing pauses."""
    async with running() as mp:
        await mp.make_inbox()
        lost = machine("lost")
        lost["policies"]["backend_topic"] = "nowhere"
        await mp("catalog.add_machines", {"requests": [lost, machine("fine")]})
        await asyncio.sleep(300)
        assert await mp.state_of("fine") == "AVAILABLE"
        assert await mp.state_of("lost") == "NEW"
        assert mp.cloud.calls["pubsub.projects.topics.publish"] < 20
        await mp.send("PUT", "/v1/projects/fleet-1/topics/nowhere", {})
        await asyncio.sleep(61)
        assert await mp.state_of("lost") == "AVAILABLE"


@pytest.mark.parametrize("when", ["before", "after"])
async def test_addition_survives_a_datastore_commit_of_unknown_outcome(when: Any) -> None:
    """503 before or after the commit took effect: added once, and not taken for a reuse."""
    async with running() as mp:
        await mp.make_inbox()
        fault = Fault(method="datastore.projects.commit", when=when, inner=True)
        mp.cloud.faults.add(fault)
        assert "error" not in await mp("catalog.add_machine", machine())
        assert fault.fired == 1
        await asyncio.sleep(5)
        assert await mp.state_of("vm-1") == "AVAILABLE"
        assert await mp.words() == ["SUBSCRIBED"]


async def test_datastore_outage_is_answered_with_503_and_work_goes_on_afterwards() -> None:
    """No state is made up while Datastore is down."""
    async with running() as mp:
        await mp.make_inbox()
        await mp("catalog.add_machine", machine())
        mp.cloud.faults.add(Fault(method="datastore.*", times=None, inner=True))
        status, _ = await mp.send("POST", "/_ah/api/catalog/v1/add_machine", machine("b"))
        assert status == 503
        await asyncio.sleep(60)
        mp.cloud.faults.clear()
        await asyncio.sleep(61)
        assert await mp.state_of("vm-1") == "AVAILABLE"
        assert await mp.state_of("b") is None


async def test_expired_tokens_are_replaced() -> None:
    """The Machine Provider's own tokens run out while it works."""
    async with running() as mp:
        await mp.make_inbox()
        await mp("catalog.add_machine", machine("a"))
        await asyncio.sleep(7200)
        await mp("catalog.add_machine", machine("b"))
        await asyncio.sleep(5)
        assert await mp.state_of("b") == "AVAILABLE"


async def test_a_thousand_machines_are_added_leased_and_expire_in_few_calls() -> None:
    """Batches: a handful of Datastore calls, not one per machine; seconds of CPU."""
    async with running() as mp:
        await mp.make_inbox()
        began = time.process_time()
        mp.cloud.calls.clear()
        for start in (0, 500):
            batch = [machine(f"vm-{place}") for place in range(start, start + 500)]
            answer = await mp("catalog.add_machines", {"requests": batch})
            assert not any("error" in response for response in answer["responses"])
        await asyncio.sleep(30)
        requests = [{"request_id": f"r{place}", "duration": 600} for place in range(1000)]
        answer = await mp("machine_provider.batched_lease", {"requests": requests})
        hosts = {response["hostname"] for response in answer["responses"]}
        assert len(hosts) == 1000
        await asyncio.sleep(700)
        datastore = {k: v for k, v in mp.cloud.calls.items() if k.startswith("datastore.")}
        assert sum(datastore.values()) < 120, datastore
        words = await mp.words()
        assert sorted(set(words)) == ["LEASED", "RECLAIMED", "SUBSCRIBED"]
        assert len(words) == 3000
        assert await mp.state_of("vm-999") is None
        assert time.process_time() - began < 60
