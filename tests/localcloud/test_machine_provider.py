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
import msgspec
import pytest

from gce_backend.localcloud.cloud import Cloud, CloudOptions
from gce_backend.localcloud.datastore import DatastoreService
from gce_backend.localcloud.faults import Fault
from gce_backend.localcloud.machine_provider import MachineProviderService
from gce_backend.localcloud.metadata import MetadataService
from gce_backend.localcloud.pubsub import PubSubService
from gce_backend.localcloud.tables import Tables
from support.simulation import VirtualClock

DAY = 24 * 3600
ANY: dict[str, Any] = {"dimensions": {}}
"""Of a lease request: whichever machine."""
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

    async def as_(self, account: str | None, method: str, body: Any) -> tuple[int, Any]:
        """A call as another account makes it; "" is nobody, None the cloud's own account."""
        api, _, name = method.partition(".")
        url, headers = f"{self.cloud.base_url}/_ah/api/{api}/v1/{name}", {}
        if account is None:
            headers["Authorization"] = f"Bearer {await self.token()}"
        elif account:
            path = f"{self.cloud.base_url}/_localcloud/tokens/{account}"
            async with self._session.post(path) as response:
                headers["Authorization"] = f"Bearer {(await response.json())['access_token']}"
        async with self._session.post(url, json=body, headers=headers) as response:
            return response.status, None if response.status == 204 else await response.json()

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
    ("dimensions", "error"),
    [
        ({"backend": "DUMMY", "hostname": "a"}, "MISMATCHED_BACKEND"),
        ({"backend": "GCE"}, "UNSPECIFIED_HOSTNAME"),
    ],
)
async def test_bad_addition_is_refused_with_its_reason(
    dimensions: dict[str, Any], error: str
) -> None:
    """Each rule of the catalog has its own word, and nothing is added."""
    async with running() as mp:
        answer = await mp("catalog.add_machine", {**machine("a"), "dimensions": dimensions})
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


async def test_line_07_one_unknown_enum_refuses_the_whole_batch() -> None:
    """400, with the place; none of its machines is added."""
    async with running() as mp:
        batch = {"requests": [machine("a"), machine("b", linux_flavor="FEDORA"), machine("c")]}
        status, answer = await mp.send("POST", "/_ah/api/catalog/v1/add_machines", batch)
        assert status == 400
        assert "requests[1].dimensions.linux_flavor" in answer["error"]["message"]
        assert [await mp.state_of(name) for name in "abc"] == [None, None, None]


async def test_nobody_is_told_apart_from_who_has_an_old_token_and_who_manages_nothing() -> None:
    """403 without a token, as the original; 401 makes clients fetch another; a VM adds nothing."""
    async with running() as mp:
        path = "/_ah/api/catalog/v1/add_machine"
        assert (await mp.as_("", "catalog.add_machine", machine()))[0] == 403
        url, headers = mp.cloud.base_url + path, {"Authorization": "Bearer old"}
        async with (
            aiohttp.ClientSession() as session,
            session.post(url, json=machine(), headers=headers) as response,
        ):
            assert response.status == 401
        account = "vm@fleet-1.iam.gserviceaccount.com"
        assert (await mp.as_(account, "catalog.add_machine", machine()))[0] == 403
        assert (await mp.as_(account, "machine.poll", {"hostname": "vm-1"}))[0] == 400


async def test_many_machines_leave_in_one_call_each_with_its_answer() -> None:
    """delete_machines, which the original does not have; in few Datastore calls."""
    async with running() as mp:
        await mp.make_inbox()
        names = [f"vm-{number}" for number in range(1, 500)]
        await mp("catalog.add_machines", {"requests": [machine(name) for name in names]})
        await asyncio.sleep(30)
        request = {"request_id": "r", "dimensions": {"hostname": "vm-7"}, "duration": 600}
        await mp("machine_provider.lease", request)
        await asyncio.sleep(5)
        mp.cloud.calls.clear()
        asked = [*names, "vm-8", "nobody"]
        requests = [{"dimensions": {"hostname": name}} for name in asked]
        strange = {"dimensions": {"backend": "DUMMY", "hostname": "vm-9"}}
        body = {"requests": [*requests, strange, {"dimensions": {}}]}
        responses = (await mp("catalog.delete_machines", body))["responses"]
        named = [one["machine_deletion_request"]["dimensions"].get("hostname") for one in responses]
        assert named == [*asked, "vm-9", None]
        errors = {place: one["error"] for place, one in enumerate(responses) if "error" in one}
        assert errors == {
            6: "LEASED",
            499: "ENTRY_NOT_FOUND",
            500: "ENTRY_NOT_FOUND",
            501: "MISMATCHED_BACKEND",
            502: "UNSPECIFIED_HOSTNAME",
        }
        assert await mp.state_of("vm-7") == "LEASED"
        assert await mp.state_of("vm-8") is None
        assert await mp("catalog.delete_machines", {}) == {}
        looks = [{"hostname": "vm-7"}, {"hostname": "vm-8"}, {"hostname": "x", "backend": "DUMMY"}]
        seen = (await mp("catalog.get_machines", {"requests": looks}))["responses"]
        assert seen[0]["hostname"] == "vm-7"
        assert seen[0]["entry"] == await mp("catalog.get", {"hostname": "vm-7"})
        assert seen[1:] == [
            {"hostname": "vm-8", "error": "ENTRY_NOT_FOUND"},
            {"hostname": "x", "error": "MISMATCHED_BACKEND"},
        ]


async def test_deleted_machine_is_gone_with_its_topic_and_its_name_is_free() -> None:
    """delete_machine: ENTRY_NOT_FOUND before and after, the channel goes, re-adding works."""
    async with running() as mp:
        await mp.make_inbox()
        name = {"dimensions": {"hostname": "vm-1"}}
        assert (await mp("catalog.delete_machine", name))["error"] == "ENTRY_NOT_FOUND"
        await mp("catalog.add_machine", machine())
        await asyncio.sleep(5)
        answer = await mp("catalog.delete_machine", name)
        whole = {"dimensions": {"hostname": "vm-1", "backend": "GCE"}}
        assert answer == {"machine_deletion_request": whole}
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
        assert int(lease["lease_expiration_ts"]) == pytest.approx(mp.clock.now() + 600, abs=10)
        name = {"dimensions": {"hostname": "vm-1"}}
        assert (await mp("catalog.delete_machine", name))["error"] == "LEASED"
        entry = await mp("catalog.get", {"hostname": "vm-1"})
        assert entry["state"] == "LEASED"
        assert entry["lease_expiration_ts"] == lease["lease_expiration_ts"]
        await asyncio.sleep(30)
        expected = {"hostname": "vm-1", "lease_expiration_ts": lease["lease_expiration_ts"]}
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


@pytest.mark.parametrize("policy", ["MAKE_AVAILABLE", "RECLAIM", "DELETE"])
async def test_released_machine_goes_whatever_its_policy(policy: str) -> None:
    """With the next round; RECLAIMED is said once; until then it is held, and given back again."""
    async with running() as mp:
        await mp.make_inbox()
        await mp("catalog.add_machine", machine(policy=policy))
        await asyncio.sleep(5)
        request = {"request_id": "r1", "indefinite": True, "dimensions": {}}
        lease = await mp("machine_provider.lease", request)
        assert lease["leased_indefinitely"] is True
        years = (int(lease["lease_expiration_ts"]) - mp.clock.now()) / DAY / 365
        assert years == pytest.approx(27, abs=1)
        entry = await mp("catalog.get", {"hostname": "vm-1"})
        assert entry["leased_indefinitely"] is True
        assert "lease_expiration_ts" not in entry
        await asyncio.sleep(5)
        answer = await mp(
            "machine_provider.batched_release", {"requests": [{"request_id": "r1"}] * 2}
        )
        assert ["error" in one for one in answer["responses"]] == [False, False]
        released = mp.clock.now()
        await asyncio.sleep(100)
        assert await mp.state_of("vm-1") is None
        assert await mp.words() == ["SUBSCRIBED", "LEASED", "RECLAIMED"]
        again = await mp("machine_provider.release", {"request_id": "r1"})
        assert again["error"] == "ALREADY_RECLAIMED"
        over = await mp("machine_provider.lease", request)
        assert (over["state"], over["leased_indefinitely"]) == ("FULFILLED", False)
        assert "hostname" not in over
        assert int(over["lease_expiration_ts"]) == pytest.approx(released, abs=5)


async def test_release_errors() -> None:
    """Unknown requests and those still waiting are told apart."""
    async with running() as mp:
        await mp("machine_provider.lease", {"request_id": "waits", "duration": 60, **ANY})
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
        request = {"request_id": "r1", "duration": 600, **ANY}
        first = await mp("machine_provider.lease", request)
        await asyncio.sleep(20)
        assert await mp("machine_provider.lease", request) == first
        other = await mp("machine_provider.lease", {"request_id": "r1", "duration": 601, **ANY})
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


async def test_instruction_reaches_the_leased_machine_and_is_acknowledged() -> None:
    """By poll (PENDING, then RECEIVED) and ack (EXECUTED) of its own account, and as a message."""
    account = "vm@fleet-1.iam.gserviceaccount.com"
    name = {"hostname": "vm-1", "backend": "GCE"}
    async with running() as mp:

        async def polled(by: str | None) -> tuple[str | None, str | None]:
            _, answer = await mp.as_(by, "machine.poll", name)
            server = answer.get("instruction", {}).get("swarming_server")
            return server, answer.get("state")

        await mp.make_inbox()
        await mp("catalog.add_machine", machine())
        await asyncio.sleep(5)
        assert await polled(account) == (None, None)
        assert (await mp.as_(account, "machine.ack", name))[0] == 400
        on_lease = {"swarming_server": "https://one.example.com"}
        request = {"request_id": "r", "indefinite": True, "on_lease": on_lease, **ANY}
        await mp("machine_provider.lease", request)
        await asyncio.sleep(5)
        assert await polled(account) == (None, None)
        own = "projects/broker-1/subscriptions/machine-provider-gce-vm-1"
        server = {"hostname": "vm-1", "swarming_server": "https://one.example.com"}
        assert ("CONNECT", server) in await mp.pull(own)
        other = "https://other.example.com"
        body = {"request_id": "r", "instruction": {"swarming_server": other}}
        assert "error" not in await mp("machine_provider.instruct", body)
        await asyncio.sleep(5)
        assert await mp.pull(own) == [("CONNECT", server | {"swarming_server": other})]
        assert await polled(None) == (other, "PENDING")
        assert await polled(account) == (other, "PENDING")
        assert await polled(None) == (other, "RECEIVED")
        assert (await mp.as_(None, "machine.ack", name))[0] == 404
        assert (await mp.as_("somebody@example.com", "machine.poll", name))[0] == 404
        assert (await mp.as_(account, "machine.ack", name)) == (204, None)
        assert await polled(None) == (other, "EXECUTED")
        assert await mp.words() == ["SUBSCRIBED", "LEASED"]
        await mp("machine_provider.release", {"request_id": "r"})
        assert await polled(account) == (None, None)
        await asyncio.sleep(5)
        late = await mp("machine_provider.instruct", body)
        assert late["error"] == "ALREADY_RECLAIMED"
        assert (await mp.send("POST", "/_ah/api/machine/v1/poll", {"hostname": "none"}))[0] == 404


async def test_a_transfer_is_told_to_requester_backend_and_machine() -> None:
    """For the requester the lease is over, also in what is told at its end."""
    async with running() as mp:
        await mp.make_inbox()
        heard = "projects/broker-1/subscriptions/lessee"
        await mp.send("PUT", "/v1/projects/broker-1/topics/lessee", {})
        await mp.send("PUT", f"/v1/{heard}", {"topic": "projects/broker-1/topics/lessee"})
        await mp("catalog.add_machine", machine())
        await asyncio.sleep(5)
        request = {"request_id": "r", "duration": 600, "pubsub_topic": "lessee", **ANY}
        lease = await mp("machine_provider.lease", request)
        await asyncio.sleep(5)
        own = "projects/broker-1/subscriptions/machine-provider-gce-vm-1"
        for name in (heard, own, SUBSCRIPTION):
            await mp.pull(name)
        path = f"/api/v1/leases/{lease['request_hash']}"
        for user, status in (("not-an-address", 403), ("bob@example.com", 200)):
            body = {"user": user}
            assert (await mp.send("POST", f"{path}:transfer", body))[0] == status
        await asyncio.sleep(5)
        assert [word for word, _ in await mp.pull(own)] == ["LEASED"]
        assert await mp.words() == ["LEASED"]
        await mp.send("POST", f"{path}:release", {})
        await asyncio.sleep(5)
        told = [msgspec.json.decode(word) for word, _ in await mp.pull(heard)]
        assert [one.get("hostname") for one in told] == [None, None]
        assert told[0] == told[1]
        assert await mp.words() == ["RECLAIMED"]


@pytest.mark.parametrize("topic", ["nowhere", "lessee"])
async def test_lessee_that_cannot_be_told_holds_no_machine(topic: str) -> None:
    """A topic that is not there is given up; one that fails for a while is tried again."""
    async with running() as mp:
        await mp.make_inbox()
        await mp.send("PUT", "/v1/projects/broker-1/topics/lessee", {})
        pulled = "projects/broker-1/subscriptions/lessee"
        await mp.send("PUT", f"/v1/{pulled}", {"topic": "projects/broker-1/topics/lessee"})
        await mp("catalog.add_machine", machine())
        await asyncio.sleep(5)
        if topic == "lessee":
            down = Fault(method="pubsub.projects.topics.publish", times=4, skip=2, inner=True)
            mp.cloud.faults.add(down)
        request = {"request_id": "r", "duration": 60, "pubsub_topic": topic, **ANY}
        assert (await mp("machine_provider.lease", request))["state"] == "FULFILLED"
        await asyncio.sleep(300)
        assert await mp.state_of("vm-1") is None
        states = [word for word, _ in await mp.pull(pulled)]
        assert len(states) >= 2 if topic == "lessee" else states == []


async def test_restored_backup_brings_back_what_was_and_takes_away_what_came(
    tmp_path: Path,
) -> None:
    """Who has left is offered again, a lease that ended runs, a new machine is unknown."""
    async with running(tmp_path / "state") as mp:
        await mp.make_inbox()
        await mp("catalog.add_machines", {"requests": [machine("a"), machine("b"), machine("c")]})
        await asyncio.sleep(5)
        held = {"request_id": "r", "indefinite": True, "dimensions": {"hostname": "b"}}
        await mp("machine_provider.lease", held)
        await asyncio.sleep(5)
        path = "/_localcloud/machine-provider/backup"
        _, backup = await mp.send("GET", path)
        await mp("machine_provider.release", {"request_id": "r"})
        await mp("catalog.delete_machine", {"dimensions": {"hostname": "a"}})
        await mp("catalog.add_machine", machine("d"))
        await asyncio.sleep(30)
        states = {name: await mp.state_of(name) for name in "abcd"}
        assert states == {"a": None, "b": None, "c": "AVAILABLE", "d": "AVAILABLE"}
        assert (await mp.send("PUT", path, backup))[0] == 200
        await asyncio.sleep(30)
        states = {name: await mp.state_of(name) for name in "abcd"}
        assert states == {"a": "AVAILABLE", "b": "LEASED", "c": "AVAILABLE", "d": None}
        assert (await mp("machine_provider.lease", held))["hostname"] == "b"
        await mp("machine_provider.release", {"request_id": "r"})
        await asyncio.sleep(30)
        assert await mp.state_of("b") is None
        assert (await mp.send("PUT", path, [{"kind": "Other", "record": {}}]))[0] == 400


async def test_late_addition_and_deletion_take_effect_when_nobody_waits_for_them() -> None:
    """add_machines and delete_machine, minutes after the caller has gone."""
    async with running() as mp:
        await mp.make_inbox()
        for method, body, state in (
            ("catalog.add_machines", {"requests": [machine()]}, "AVAILABLE"),
            ("catalog.delete_machine", {"dimensions": {"hostname": "vm-1"}}, None),
        ):
            before = await mp.state_of("vm-1")
            fault = Fault(method=f"machine_provider.{method}", kind="late", seconds=300)
            mp.cloud.faults.add(fault)
            with pytest.raises(aiohttp.ClientError):
                await mp(method, body)
            await asyncio.sleep(290)
            assert await mp.state_of("vm-1") == before
            await asyncio.sleep(20)
            assert await mp.state_of("vm-1") == state
            assert fault.executed == 1


async def test_capacity_is_noted() -> None:
    """modify_capacity answers with its request, or with why not."""
    async with running() as mp:
        request = {"dimensions": {"os_family": "LINUX"}, "count": 7}
        answer = await mp("catalog.modify_capacity", request)
        whole = {"dimensions": {"os_family": "LINUX", "backend": "GCE"}, "count": "7"}
        assert answer == {"capacity_modification_request": whole}
        other = {"dimensions": {"backend": "DUMMY"}, "count": 7}
        assert (await mp("catalog.modify_capacity", other))["error"] == "MISMATCHED_BACKEND"


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
        await mp("machine_provider.lease", {"request_id": "r", "duration": 60, **ANY})
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
        requests = [{"request_id": f"r{place}", "duration": 600, **ANY} for place in range(1000)]
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
