"""The referee catches what it is there to catch, and tells whose fault it is."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import msgspec
import pytest
from aiohttp import ClientError, ClientSession, web
from yarl import URL

from gce_backend.localcloud.cloud import Call, Cloud, CloudOptions, Route, Service
from gce_backend.localcloud.faults import Fault
from gce_backend.localcloud.tables import Tables
from gce_backend.rules import compute_bodies
from processes.running import PROJECT as LOCAL_PROJECT
from processes.running import site
from support.discovery.documents import APIS, document, find, method
from support.discovery.exchanges import Answer, Exchange, Tally, problems
from support.discovery.masks import mask_problems
from support.fleet_harness import world
from support.records import Records
from support.referee import Referee
from support.responses import scripted_server
from support.simulation import VirtualClock

pytest_plugins = ["pytester"]

PROJECT = "/compute/v1/projects/p"
TEMPLATES = f"{PROJECT}/global/instanceTemplates"
GROUPS = f"{PROJECT}/zones/z/instanceGroupManagers"
METADATA = f"{PROJECT}/zones/z/instances/vm/setMetadata"
OPERATION = f"{PROJECT}/zones/z/operations/o"


def judged(
    verb: str, url: str, body: Any = None, answer: Answer | None = None, *, by_hand: bool = False
) -> list[str]:
    """What is wrong with an exchange."""
    sent = b"" if body is None else msgspec.json.encode(body)
    exchange = Exchange(verb, URL(url, encoded=True), sent, answer, by_hand=by_hand)
    return problems(exchange, Tally())


def answered(body: Any, status: int = 200) -> Answer:
    """An answer in JSON."""
    return Answer(status, "application/json", msgspec.json.encode(body))


def group(**fields: Any) -> dict[str, Any]:
    """The body of a group."""
    return {"name": "g", "targetSize": 1, **fields}


SENT: list[tuple[str, str, Any, str]] = [
    # fields of Compute
    (
        "POST",
        TEMPLATES,
        {"name": "t", "properties": {"machineType": "m", "disks": [{}, {"autoDelet": True}]}},
        "instanceTemplates.insert: request.properties.disks[1].autoDelet: no such field",
    ),
    (
        "POST",
        TEMPLATES,
        {"name": "t", "properties": {"machineType": "m", "labels": {"a": 1}}},
        "instanceTemplates.insert: request.properties.labels.a: 1 is no string",
    ),
    (
        "POST",
        GROUPS,
        group(instanceLifecyclePolicy={"defaultActionOnFailure": "GIVE_UP"}),
        "insert: request.instanceLifecyclePolicy.defaultActionOnFailure: 'GIVE_UP' is none of DO_",
    ),
    ("POST", GROUPS, group(targetSize="1"), "request.targetSize: '1' is no integer (int32)"),
    ("POST", GROUPS, group(targetSize=True), "request.targetSize: True is no integer (int32)"),
    ("POST", GROUPS, group(targetSize=2**31), "request.targetSize: 2147483648 is no integer"),
    ("POST", GROUPS, group(name="Group"), "request.name: 'Group' does not match [a-z]"),
    ("POST", GROUPS, group(name="g\n"), r"request.name: 'g\n' does not match"),
    ("POST", GROUPS, {"name": "g"}, "request.targetSize: required, and missing"),
    ("POST", GROUPS, [], "instanceGroupManagers.insert: request: [] is no object"),
    ("POST", GROUPS, group(versions={}), "request.versions: {} is no list"),
    (
        "POST",
        f"{GROUPS}/g/deleteInstances",
        {"instances": ["i"] * 600 + [7]},
        "deleteInstances: request.instances[600]: 7 is no string",
    ),
    # fields that only Google writes, by flag, by description, deep inside
    ("POST", GROUPS, group(selfLink="l"), "request.selfLink: only Google writes this field"),
    ("POST", GROUPS, group(status={}), "request.status: only Google writes this field"),
    ("POST", METADATA, {"kind": "compute#metadata"}, "request.kind: only Google writes"),
    (
        "POST",
        TEMPLATES,
        {"name": "t", "properties": {"machineType": "m", "networkInterfaces": [{"name": "n"}]}},
        "request.properties.networkInterfaces[0].name: only Google writes this field",
    ),
    # formats of Compute
    ("POST", METADATA, {"fingerprint": "f"}, "request.fingerprint: 'f' is no string (byte)"),
    (
        "POST",
        TEMPLATES,
        {
            "name": "t",
            "properties": {
                "machineType": "m",
                "disks": [{"initializeParams": {"diskSizeGb": 20}}],
            },
        },
        "request.properties.disks[0].initializeParams.diskSizeGb: 20 is no string",
    ),
    # URLs of Compute
    ("GET", f"{GROUPS}/g/colour", None, f"GET {GROUPS}/g/colour: no method has this path"),
    ("GET", "/compute/v2/projects/p", None, "GET /compute/v2/projects/p: no method has this path"),
    ("PUT", f"{GROUPS}/g", None, "this path takes DELETE or GET or PATCH only"),
    ("GET", f"{TEMPLATES}/T", None, "instanceTemplates.get: path.instanceTemplate: 'T' does not"),
    ("GET", f"{TEMPLATES}/a%2Fb", None, "path.instanceTemplate: 'a/b' does not match"),
    ("GET", f"{GROUPS}?colour=red", None, "list: query.colour: no such parameter"),
    ("GET", f"{GROUPS}?zone=z", None, "list: query.zone: no such parameter"),
    ("GET", f"{GROUPS}?maxResults=many", None, "query.maxResults: 'many' is no integer (uint32)"),
    ("GET", f"{GROUPS}?maxResults=-1", None, "query.maxResults: -1 is no integer (uint32)"),
    ("GET", f"{GROUPS}?prettyPrint=1", None, "list: query.prettyPrint: '1' is no boolean"),
    ("GET", f"{GROUPS}?filter=a&filter=b", None, "query.filter: given 2 times"),
    ("GET", f"{GROUPS}?alt=xml", None, "query.alt: 'xml' is none of json, media, proto"),
    ("GET", f"{GROUPS}?fields=items/nam", None, "query.fields: the answer has no 'items/nam'"),
    ("POST", f"{GROUPS}/g/resize", None, "resize: query.size: required, and missing"),
    ("GET", GROUPS, {"name": "g"}, "list: request: a body where none belongs"),
    # Datastore
    (
        "POST",
        "/v1/projects/p:commit",
        {"mutations": [{"upsert": {"properties": {"n": {"integerValue": 5}}}}]},
        "commit: request.mutations[0].upsert.properties.n.integerValue: 5 is no string",
    ),
    (
        "POST",
        "/v1/projects/p:commit",
        {"mutations": [{"upsert": {"properties": {"n": {"integerValue": str(2**63)}}}}]},
        "integerValue: '9223372036854775808' is no string (int64)",
    ),
    (
        "POST",
        "/v1/projects/p:commit",
        {"mutations": [{"upsert": {"properties": {"t": {"timestampValue": "today"}}}}]},
        "t.timestampValue: 'today' is no string (google-datetime)",
    ),
    (
        "POST",
        "/v1/projects/p:commit",
        {"mutations": [{"insert": {"properties": {"a": {"arrayValue": {"values": [{"x": 1}]}}}}}]},
        "mutations[0].insert.properties.a.arrayValue.values[0].x: no such field",
    ),
    ("GET", "/v1/projects/p:commit", None, "this path takes POST only"),
    # Pub/Sub
    (
        "PUT",
        "/v1/projects/p/subscriptions/s",
        {"topic": "t", "ackDeadlineSeconds": "10"},
        "pubsub.projects.subscriptions.create: request.ackDeadlineSeconds: '10' is no integer",
    ),
    (
        "PUT",
        "/v1/projects/p/subscriptions/s",
        {"topic": "t", "messageRetentionDuration": "1d"},
        "request.messageRetentionDuration: '1d' is no string (google-duration)",
    ),
    (
        "PUT",
        "/v1/projects/p/topics/t",
        {"state": "ACTIVE"},
        "pubsub.projects.topics.create: request.state: only Google writes this field",
    ),
    ("POST", "/v1/projects/p/topics/t:shout", {}, "topics/t:shout: no method has this path"),
]


@pytest.mark.parametrize(("verb", "url", "body", "problem"), SENT)
def test_request_that_google_would_not_understand_is_caught(
    verb: str, url: str, body: Any, problem: str
) -> None:
    """Once, by method and path of the field, and also when it is refused."""
    (found,) = judged(verb, url, body)
    assert problem in found
    error = {"error": {"code": 400, "message": "no", "errors": [{"reason": "invalid"}]}}
    assert judged(verb, url, body, answered(error, 400)) == [found]


@pytest.mark.parametrize(
    ("url", "body", "problem"),
    [
        (OPERATION, {"status": "FINISHED"}, "response.status: 'FINISHED' is none of DONE"),
        (OPERATION, {"id": 12}, "zoneOperations.get: response.id: 12 is no string"),
        (OPERATION, {"id": "-1"}, "response.id: '-1' is no string (uint64)"),
        (OPERATION, {"targetId": "twelve"}, "response.targetId: 'twelve' is no string (uint64)"),
        (OPERATION, {"progress": "100"}, "response.progress: '100' is no integer (int32)"),
        (OPERATION, {"colour": "red"}, "response.colour: no such field"),
        (OPERATION, {"name": None}, "response.name: None is no string"),
        (OPERATION, {"error": {"errors": [{"cod": "X"}]}}, "error.errors[0].cod: no such field"),
        (OPERATION, [], "zoneOperations.get: response: [] is no object"),
        (GROUPS, {"items": [group()] * 40 + [group(size=1)]}, "response.items[40].size: no such"),
        ("/v1/projects/p/topics", {"topics": [{"labels": []}]}, "topics[0].labels: [] is no obj"),
    ],
)
def test_answer_that_google_would_not_give_is_caught(url: str, body: Any, problem: str) -> None:
    """A wrong enum, wrong types, unknown fields, however far down a list."""
    (found,) = judged("GET", url, answer=answered(body))
    assert problem in found


@pytest.mark.parametrize(
    ("status", "body", "problem"),
    [
        (404, {"code": 404, "message": "none"}, "response: an error is {'error': {...}}"),
        (404, {"error": "none"}, "response: an error is {'error': {...}}"),
        (
            404,
            {"error": {"code": 400, "message": "m", "status": "NOT_FOUND"}},
            "response.error.code: 400 with HTTP status 404",
        ),
        (
            404,
            {"error": {"code": 404, "status": "NOT_FOUND"}},
            "response.error.message: no string",
        ),
        (
            404,
            {"error": {"code": 404, "message": "m", "status": "ABORTED"}},
            "response.error.status: 'ABORTED' is no word for HTTP status 404",
        ),
        (404, {"error": {"code": 404, "message": "m"}}, "error: neither status nor errors"),
        (
            409,
            {"error": {"code": 409, "message": "m", "errors": [{"domain": "global"}]}},
            "response.error.errors[0].reason: no string",
        ),
        (
            409,
            {"error": {"code": 409, "message": "m", "errors": [{"reason": "x", "why": "y"}]}},
            "response.error.errors[0].why: no such field",
        ),
        (302, {}, "response: HTTP status 302 is neither 200 nor an error"),
    ],
)
def test_error_that_does_not_look_like_googles_is_caught(
    status: int, body: Any, problem: str
) -> None:
    """Envelope, code, words and entries."""
    (found,) = judged("GET", OPERATION, answer=answered(body, status))
    assert problem in found
    assert found.startswith("compute.zoneOperations.get: ")


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (Answer(200, "text/html", b"{}"), "HTTP status 200 with text/html, not with application/j"),
        (Answer(200, "application/json", b'{"name": "o'), "response: no JSON: Input data was trun"),
        (Answer(200, "application/json", b'{"a":' + b"[" * 100_000), "response: no JSON"),
        (Answer(200, "application/json", b""), "response: no JSON"),
    ],
)
def test_answer_that_is_no_json_is_caught(answer: Answer, problem: str) -> None:
    """A sign-in page, half an answer, a bottomless one, none."""
    (found,) = judged("GET", OPERATION, answer=answer)
    assert problem in found


def test_request_that_is_no_json_is_caught() -> None:
    """It cannot be judged any further."""
    (found,) = problems(Exchange("POST", URL(GROUPS), b"{'name': 'g'}"), Tally())
    assert "insert: request: no JSON" in found


@pytest.mark.parametrize(
    ("verb", "url", "body", "answer"),
    [
        ("POST", GROUPS, group(instanceTemplate="t"), {"id": "1", "progress": 0}),
        ("GET", f"{GROUPS}?maxResults=5&prettyPrint=false&$.xgafv=2&fields=items/name", None, {}),
        (
            "GET",
            f"{PROJECT}/aggregated/instances?fields=items/*/instances(id,disks/source)",
            {},
            {},
        ),
        ("POST", "/v1/projects/p:lookup", {"keys": [{"path": [{"kind": "K", "id": "1"}]}]}, {}),
        (
            "POST",
            "/v1/projects/p:runQuery",
            {},
            {
                "batch": {
                    "entityResults": [
                        {
                            "version": "1",
                            "updateTime": "2026-01-01T00:00:00.123456789Z",
                            "entity": {
                                "properties": {
                                    "none": {"nullValue": None},
                                    "number": {"doubleValue": "NaN"},
                                    "bytes": {"blobValue": "AA=="},
                                }
                            },
                        }
                    ]
                }
            },
        ),
        ("POST", "/v1/projects/p/subscriptions/s:pull", {"maxMessages": 5}, {}),
        ("POST", "/v1/projects/p:testIamPermissions", {"permissions": ["a"]}, {}),
    ],
)
def test_what_google_describes_is_right(verb: str, url: str, body: Any, answer: Any) -> None:
    """Parameters of every method, masks, JSON's ways to say null, no number, and 64 bits."""
    assert judged(verb, url, body, answered(answer)) == []


def test_nonsense_by_a_tests_own_hand_may_be_refused_but_not_accepted() -> None:
    """A test of the cloud's refusals is no mistake; the refusal itself is judged."""
    refusal = {"error": {"code": 400, "message": "no", "errors": [{"reason": "invalid"}]}}
    nonsense = group(colour="red")
    assert judged("POST", GROUPS, nonsense, answered(refusal, 400), by_hand=True) == []
    assert judged("POST", GROUPS, nonsense, answered({}), by_hand=True)
    assert judged("POST", GROUPS, nonsense, by_hand=True)
    (found,) = judged("POST", GROUPS, nonsense, answered({}, 400), by_hand=True)
    assert "response: an error is" in found


def test_a_mask_with_unknown_fields_is_noticed() -> None:
    """In the middle, in parentheses, at the top; and a parenthesis that stays open."""
    listed = method("compute.instanceGroupManagers.aggregatedList")
    mask = "items/*/instanceGroupManagers(name,nonsense),nope,warning(code)"
    assert mask_problems(listed, mask) == ["nonsense", "nope"]
    assert mask_problems(listed, "items/warning") == ["items/warning"]
    assert mask_problems(listed, "warning(code") == ["warning(code"]


def test_every_method_is_found_by_a_url_of_its_own() -> None:
    """No template hides another one, in any of the documents."""
    names = set()
    for api in APIS:
        for known in _methods(api):
            filled = re.sub(r"\{(\w+)\}", "x1", known["flatPath"])
            root = "/compute/v1/" if api == "compute.v1" else "/"
            found = find(known["httpMethod"], root + filled)
            assert found is not None, known["id"]
            assert found.name == known["id"]
            names.add(found.name)
    assert len(names) > 900


def _methods(api: str) -> list[dict[str, Any]]:
    waiting, found = [document(api)], []
    while waiting:
        resource = waiting.pop()
        waiting += resource.get("resources", {}).values()
        found += resource.get("methods", {}).values()
    return found


async def test_wrong_template_is_seen_on_the_wire_though_the_cloud_refuses_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, referee: Referee
) -> None:
    """What the daemon sends is judged whatever the answer: a misspelt field, deep inside."""
    original = compute_bodies.template_body

    def misspelt(*arguments: Any, **options: Any) -> dict[str, Any]:
        body = original(*arguments, **options)
        body["properties"]["disks"][0]["autoDelet"] = True
        return body

    monkeypatch.setattr(compute_bodies, "template_body", misspelt)
    referee.expect(r"insert: request\.properties\.disks\[0\]\.autoDelet: no such field")
    async with world(tmp_path) as w:
        await w.pass_time(30)


async def test_exchanges_of_a_whole_start_are_seen(tmp_path: Path, referee: Referee) -> None:
    """With all services, and with them their fields."""
    before = referee.tally.exchanges
    async with world(tmp_path) as w:
        await w.until_states(cataloged=3)
        served = sum((await w.calls()).values())
    seen = referee.tally.exchanges - before
    assert seen > 50
    assert seen > served / 2
    assert {
        "compute.instanceGroupManagers.insert",
        "datastore.projects.commit",
        "pubsub.projects.subscriptions.pull",
    } <= referee.tally.methods
    assert "compute.InstanceProperties.disks" in referee.tally.sent
    assert "datastore.CommitResponse.mutationResults" in referee.tally.received


class Colourful(Service):
    """A Compute with one method, whose answer is wrong."""

    name = "compute"

    def routes(self) -> Iterable[Route]:
        """zones.list."""

        async def answer(_: Call) -> dict[str, str]:
            return {"colour": "red"}

        path = "/compute/v1/projects/{project}/zones"
        yield Route("compute.zones.list", "GET", path, answer, authenticated=False)

    def state(self) -> Any:
        """Nothing."""


@pytest.mark.parametrize("kind", ["html", "truncate", "drop"])
async def test_trouble_on_the_way_does_not_hide_what_the_service_said(
    kind: Literal["html", "truncate", "drop"], referee: Referee
) -> None:
    """A spoiled answer is nobody's fault, but the one below it is judged all the same."""
    referee.expect("^compute.zones.list: response.colour: no such field$")
    cloud = Cloud(Tables(None), VirtualClock(), CloudOptions())
    cloud.add(Colourful())
    fault = Fault(kind=kind, method="compute.zones.list", when="after", times=1)
    cloud.faults.add(fault)
    url = await cloud.start() + f"{PROJECT}/zones"
    async with ClientSession() as session:
        with contextlib.suppress(ClientError):
            await session.get(url)
    await cloud.close()
    assert fault.fired == 1


async def test_server_that_fails_is_a_problem(referee: Referee) -> None:
    """A handler's exception, that a client would repeat its call for, does not go unnoticed."""

    def answer(_: web.Request) -> web.Response:
        raise KeyError("colour")

    async with (
        scripted_server(answer) as server,
        ClientSession() as session,
        session.get(server.root + GROUPS[1:]) as response,
    ):
        assert response.status == 500
    referee.expect("list: response: HTTP status 500 with an exception")


async def test_other_services_are_none_of_its_business(referee: Referee) -> None:
    """The metadata server, LUCI, the Machine Provider and the daemon have other rules."""
    before = referee.tally.exchanges
    paths = ("computeMetadata/v1/x", "_ah/api/config/v1/x", "healthz", "api/fleet", "prpc/x")
    async with (
        scripted_server(lambda _: web.Response(status=418)) as server,
        ClientSession() as session,
    ):
        for path in paths:
            async with session.get(server.root + path) as response:
                assert response.status == 418
    assert referee.tally.exchanges == before


def test_exchanges_of_a_process_are_seen_though_it_is_killed(
    tmp_path: Path, referee: Referee
) -> None:
    """All that were answered, with their fields, and what was wrong with one."""
    topic = f"/v1/projects/{LOCAL_PROJECT}/topics/watched"
    with site(tmp_path) as place:
        cloud = place.start_cloud("--no-latency")
        made = place.authorized("PUT", topic, {})
        for _ in range(20):
            assert place.authorized("GET", topic) == made
        place.authorized("PATCH", topic, {"topic": {"colour": "red"}, "updateMask": "labels"})
        cloud.kill()
    tally = Tally()
    ours = [seen for seen in referee.records.take() if seen.url.path == topic]
    found = [problem for exchange in ours for problem in problems(exchange, tally)]
    assert found == ["pubsub.projects.topics.patch: request.topic.colour: no such field"]
    assert [exchange.verb for exchange in ours] == ["PUT", *["GET"] * 20, "PATCH"]
    assert "pubsub.Topic.name" in tally.received
    assert "pubsub.UpdateTopicRequest.updateMask" in tally.sent


def test_what_a_killed_process_had_half_recorded_is_no_exchange(tmp_path: Path) -> None:
    """The whole lines before it are."""
    records = Records(tmp_path)
    url = URL("/v1/projects/p/topics/a%2Fb?pageToken=%20", encoded=True)
    exchange = Exchange("GET", url, b"\xff", Answer(200, "application/json", b"{}"))
    records.write(exchange)
    (path,) = tmp_path.iterdir()
    line = path.read_bytes()
    path.write_bytes(line * 2 + line[:-1])
    assert records.take() == [exchange, exchange]
    assert records.take() == []


SUITE = """
import subprocess
import sys

from aiohttp import ClientError, ClientSession, web
from aioresponses import aioresponses
import pytest
from support.responses import MockedResponse, scripted_server

ROOT = "compute/v1/projects/p/"

async def get(path):
    async with scripted_server(lambda _: web.json_response({})) as server:
        async with ClientSession() as session, session.get(server.root + path):
            pass

async def test_right():
    await get(ROOT + "zones/z/instances/vm")

async def test_wrong():
    await get(ROOT + "zones/z/instance/vm")

def test_wrong_in_a_process():
    subprocess.run([sys.executable, "process.py"], check=True)

async def test_right_again():
    await get(ROOT + "zones")

async def test_wrong_on_purpose(referee):
    referee.expect("query.colour: no such parameter")
    await get(ROOT + "zones?colour=red")

async def test_right_by_mistake(referee):
    referee.expect("query.colour: no such parameter")
    await get(ROOT + "zones")

async def test_wrong_in_a_mock():
    with aioresponses() as mocked:
        mocked.get(
            "http://x/" + ROOT + "zones/z", payload={"nam": 1}, response_class=MockedResponse
        )
        async with ClientSession() as session, session.get("http://x/" + ROOT + "zones/z") as found:
            assert await found.json() == {"nam": 1}
"""

PROCESS = """
import asyncio
from aiohttp import ClientSession, web

async def answer(request):
    return web.json_response({"nam": 1})

async def main():
    app = web.Application()
    app.router.add_get("/{path:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0]
    url = f"http://{host}:{port}/compute/v1/projects/p/regions/r"
    async with ClientSession() as session, session.get(url) as found:
        assert await found.json() == {"nam": 1}
    await runner.cleanup()

asyncio.run(main())
"""


@pytest.mark.parametrize("workers", [(), ("-n", "2")])
def test_a_run_fails_what_was_wrong_and_counts_all(
    workers: tuple[str, ...], pytester: pytest.Pytester
) -> None:
    """Only the tests whose fault it is; the sum is the same when workers share the tests."""
    tests = Path(__file__).parents[2]
    pytester.makeconftest((tests / "conftest.py").read_text())
    pytester.makepyfile(SUITE, process=PROCESS)
    pytester.makeini(f"[pytest]\npythonpath = {tests}\n")
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider", *workers)
    result.assert_outcomes(passed=7, errors=4)
    result.stdout.fnmatch_lines_random(
        [
            "E * GET /compute/v1/projects/p/zones/z/instance/vm: no method has this path",
            "E * expected, and did not happen: query.colour: no such parameter",
            "E * compute.zones.get: response.nam: no such field",
            "E * compute.regions.get: response.nam: no such field",
            "ERROR *::test_wrong*",
            "ERROR *::test_right_by_mistake*",
            "ERROR *::test_wrong_in_a_mock*",
            "ERROR *::test_wrong_in_a_process*",
            "referee: 7 exchanges checked, 4 methods, 0 distinct fields seen (0 sent, 0 received)",
        ]
    )
