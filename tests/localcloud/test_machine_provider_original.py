"""The Machine Provider answers as the original does.

`original_machine_provider.jsonl` is made from what luci-py's Machine Provider answered, unmodified,
in two ages: May 2019, which ours follows, and April 2017 (`answer_2017`, where that differs and is
known whole). In the answers, `#` stands for a request's hash and `TS` for a time in seconds. Where
ours means to differ, its answer (`ours`) and the reason (`why`) stand beside.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import msgspec

from localcloud.test_machine_provider import Client, running

RECORDED = Path(__file__).with_name("original_machine_provider.jsonl")
TOPICS = ("mpt", "lessee")
PULLED = {topic: f"projects/fleet-one/subscriptions/{topic}" for topic in TOPICS}


def steps() -> list[dict[str, Any]]:
    """Everything that is asked, in order; some steps wait for a round of work."""
    return [json.loads(line) for line in RECORDED.read_text(encoding="utf-8").splitlines()]


def normal(value: Any, field: str = "") -> Any:
    """An answer without what is another each time."""
    if isinstance(value, dict):
        return {key: normal(inner, key) for key, inner in value.items()}
    if isinstance(value, list):
        return [normal(inner) for inner in value]
    if field == "request_hash":
        return "#"
    if field == "lease_expiration_ts":
        assert isinstance(value, str)
        assert value.isdecimal()
        return "TS"
    return value


async def ask(mp: Client, step: dict[str, Any]) -> list[Any]:
    """The status, and the answer or the message of the error; bad requests have words of ours."""
    soon = str(int(mp.clock.now()) + 3600)
    body = json.loads(json.dumps(step["body"]).replace("IN_AN_HOUR", soon))
    status, answer = await mp.as_(step.get("as"), step["method"], body)
    if status < 400:
        return [status, normal(answer)]
    return [status, "" if status == 400 else answer["error"]["message"]]


async def make_topics(mp: Client) -> None:
    """The backend's topic and the lessee's."""
    for topic, subscription in PULLED.items():
        path = f"projects/fleet-one/topics/{topic}"
        await mp.send("PUT", f"/v1/{path}", {})
        await mp.send("PUT", f"/v1/{subscription}", {"topic": path})


async def test_line_17_every_recorded_request_is_answered_as_by_the_original() -> None:
    """In the order of the recording, on the catalog and the leases that it made."""
    wrong = {}
    async with running() as mp:
        await make_topics(mp)
        for step in steps():
            if "wait" in step:
                await asyncio.sleep(step["wait"])
            elif "setup" in step:
                assert (await ask(mp, step))[0] == 200
            else:
                answer = await ask(mp, step)
                if answer != step.get("ours", step["answer_2019"]):
                    wrong[step["section"], step["name"]] = answer
        assert wrong == {}


def test_each_difference_is_one_and_has_a_reason() -> None:
    """Nothing is called different that is not, and 2017's answers are those that differ."""
    for step in steps():
        if "name" in step:
            assert ("ours" in step) == ("why" in step)
            assert step.get("ours") != step["answer_2019"], step["name"]
            assert step.get("answer_2017") != step["answer_2019"], step["name"]


async def test_backend_and_lessee_hear_what_the_original_tells_them() -> None:
    """SUBSCRIBED is 2017's; LEASED says when the lease ends, which the original never does."""
    async with running() as mp:
        await make_topics(mp)
        subscription = {"subscription_project", "subscription", "topic", "topic_project"}
        for step in steps():
            if "wait" in step:
                await asyncio.sleep(step["wait"])
            elif step.get("name", "") != "no token: lease":
                await ask(mp, step)
        told: dict[str, list[tuple[str, set[str]]]] = {}
        for word, attributes in await mp.pull(PULLED["mpt"]):
            host = attributes["hostname"]
            told.setdefault(host, []).append((word, attributes.keys() - {"hostname", "key"}))
        life = [
            ("SUBSCRIBED", subscription),
            ("LEASED", {"lease_expiration_ts"}),
            ("RECLAIMED", set()),
        ]
        assert {host: told[host] for host in ("h1", "c1", "c2")} == dict.fromkeys(
            ("h1", "c1", "c2"), life
        )
        assert told["c3"] == [life[0], ("LEASED", set()), life[2]]
        heard = [msgspec.json.decode(word) for word, _ in await mp.pull(PULLED["lessee"])]
        assert [(one["client_request_id"], one.get("hostname")) for one in heard] == [
            ("k1", "h1"),
            ("k1", None),
        ]
        assert all(type(one["lease_expiration_ts"]) is int for one in heard)
        assert [one["leased_indefinitely"] for one in heard] == [False, False]
