"""Every address of the daemon against every role: who may read, who may act, and who did it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
from aiohttp import web
from structlog.testing import capture_logs

from gce_backend.settings.settings import HttpSettings, Secret
from gce_backend.settings.tokens import Role
from support.broker_messages import publish, settled, wire
from support.fleet_harness import CONTROL_TOKEN, World, world
from support.html_reader import Page

OPEN, READ, OPERATE, ADMINISTER = "open", Role.READ, Role.OPERATE, Role.ADMINISTER
ORDERS: dict[str, Role] = {
    "pause": OPERATE,
    "resume": OPERATE,
    "rollout-pause": OPERATE,
    "rollout-resume": OPERATE,
    "rollout-undo": OPERATE,
    "drain": OPERATE,
    "undrain": OPERATE,
    "cordon": OPERATE,
    "uncordon": OPERATE,
    "ack-messages": OPERATE,
    "approve": ADMINISTER,
    "lift-cap": ADMINISTER,
}
NEEDS: dict[tuple[str, str], str] = {
    **{("GET", path): OPEN for path in ("/healthz", "/readyz", "/session", "/static/{name}")},
    **{("POST", path): OPEN for path in ("/session", "/session/end")},
    **{
        ("GET", f"/api/{name}"): READ
        for name in (
            *("status", "fleet", "machines", "groups", "templates", "explain", "events", "jobs"),
            *("messages", "control"),
        )
    },
    **{
        ("GET", path): READ
        for path in (
            *("/", "/machines", "/machines/{name}", "/explain", "/jobs", "/events", "/messages"),
            *("/configuration", "/metrics", "/{path}"),
        )
    },
    **{("POST", f"/api/{name}"): role for name, role in ORDERS.items()},
}
"""What each address needs; the orders of pages need what those of the API do."""
TOKENS = {role: f"{role}-0123456789abcdef" for role in Role}
HOLDERS = {Role.READ: "prometheus", Role.OPERATE: "alice@example.com", Role.ADMINISTER: "root"}


def tokens_file(tmp_path: Path) -> Path:
    """A file with a token of each role."""
    path = tmp_path / "tokens.toml"
    path.write_text(
        "".join(
            f'["{HOLDERS[role]}"]\nrole = "{role}"\ntoken = "{token}"\n'
            for role, token in TOKENS.items()
        )
    )
    return path


async def ask(
    w: World, verb: str, path: str, token: str | None, **more: Any
) -> tuple[int, str, str | None]:
    """The status of a request from elsewhere, its body, and the session that it begins."""
    headers = {"Host": "daemon.example.net", "Origin": "http://daemon.example.net"}
    if token is not None:
        headers["Authorization"] = f"Bearer {token}"
    async with w.session.request(
        verb, w.daemon.url + path, headers=headers, allow_redirects=False, **more
    ) as answer:
        session = answer.cookies.get("gce_backend_session")
        return answer.status, await answer.text(), session.value if session else None


def routes(w: World) -> set[tuple[str, str]]:
    """What the daemon serves: verbs and addresses."""
    runner = w.daemon._server._runner
    assert runner is not None
    assert isinstance(runner, web.AppRunner)
    return {
        (route.method, route.resource.canonical)
        for route in runner.app.router.routes()
        if route.resource is not None and route.method != "HEAD"
    }


@asynccontextmanager
async def _with_tokens(tmp_path: Path, token: Secret | None = None) -> AsyncIterator[World]:
    """A world whose daemon knows a token of each role, and perhaps the one of the settings."""
    async with world(tmp_path, start=False) as w:
        http = HttpSettings(port=0, token=token, tokens_file=tokens_file(tmp_path))
        w.settings = msgspec.structs.replace(w.settings, http=http)
        await w.start_daemon()
        await w.until(w.is_loaded)
        yield w


async def test_every_address_is_open_to_its_roles_and_to_no_other(tmp_path: Path) -> None:
    """Without a token, with a wrong one, and with one of each role; also orders of pages."""
    async with _with_tokens(tmp_path) as w:
        forms = {("POST", f"/orders/{name}"): role for name, role in ORDERS.items()}
        assert routes(w) == {*NEEDS, ("POST", "/orders/{name}")}
        for (verb, address), needed in NEEDS.items():
            path = address.replace("{name}", "style.css").replace("{path}", "nowhere")
            for role in (None, "wrong", *Role):
                token = TOKENS[Role(role)] if role in TOKENS else role
                status, text, _ = await ask(w, verb, path, token, data=b"{}")
                may = needed == OPEN or (role in TOKENS and Role(role).includes(Role(needed)))
                if address == "/session" and verb == "POST":  # it judges the form, not the header
                    assert status == 415
                    continue
                case = (verb, address, role, status)
                assert (status not in {401, 403}) is may, case
                if not may:
                    assert (status == 403) is (role in TOKENS), case
                if status == 403:
                    assert f"this needs the role {needed}" in text
        for role in Role:
            _, _, session = await ask(w, "POST", "/session", None, data={"token": TOKENS[role]})
            assert session is not None
            for (_, path), needed in forms.items():
                cookies = {"gce_backend_session": session}
                status, _, _ = await ask(w, "POST", path, None, data={}, cookies=cookies)
                assert (status == 403) is not role.includes(Role(needed)), (path, role, status)
        w.session.cookie_jar.clear()


async def test_who_gave_an_order_is_stored_told_and_shown(tmp_path: Path) -> None:
    """By token and by page: in the entity, events, explain, /api/control, the log and the pages."""
    async with _with_tokens(tmp_path, token=Secret(CONTROL_TOKEN)) as w:
        await w.until_states(cataloged=3)
        await publish(w, wire("NONSENSE", {}))
        await settled(w)
        machine = min(await w.vms())
        with capture_logs() as logs:
            assert await w.act("/api/pause", {"zone": "us-central1-a"}, CONTROL_TOKEN) == 200
            alice = TOKENS[Role.OPERATE]
            assert await w.act("/api/drain", {"name": machine, "reason": "slow"}, alice) == 200
            assert await w.act("/api/ack-messages", {}, alice) == 200
            assert await w.act("/api/lift-cap", {}, alice) == 403
            assert await w.act("/api/lift-cap", {}, TOKENS[Role.ADMINISTER]) == 200
        told = {line["event"]: line["who"] for line in logs if line["event"].startswith("control.")}
        assert told == {
            "control.paused": "operator",
            "control.drained": "alice@example.com",
            "control.messages_acknowledged": "alice@example.com",
            "control.refused": "alice@example.com",
            "control.cap_lifted": "root",
        }
        control = await w.get("/api/control")
        assert control["pauses"][0]["by"] == "operator"
        assert control["cap_lifted_by"] == "root"
        events = (await w.get("/api/events?who=alice@example.com"))["events"]
        assert [(event["name"], event["cause"], event["who"]) for event in events] == [
            (machine, "operator drain", "alice@example.com")
        ]
        (found,) = (await w.get(f"/api/explain?name={machine}"))["found"]
        assert "Drained by alice@example.com: slow" in found["reason"]
        assert found["events"][0]["who"] == "alice@example.com"
        messages = await w.get("/api/messages")
        assert [one["seen_by"] for one in messages["set_aside"]] == ["alice@example.com"]
        async with w.session.get(f"{w.daemon.url}/events") as answer:
            assert "operator drain by alice@example.com" in Page(200, await answer.text()).text
        async with w.session.get(w.daemon.url) as answer:
            assert "Paused by operator: zone us-central1-a" in Page(200, await answer.text()).text


async def test_a_page_offers_what_its_reader_may_do(tmp_path: Path) -> None:
    """And says who has signed in."""
    async with _with_tokens(tmp_path) as w:
        for role in Role:
            _, source, _ = await ask(w, "GET", "/", TOKENS[role])
            assert f"<span>{HOLDERS[role]} may {role}</span>" in source
            assert ("Pause everything" in source) is (role is not Role.READ)
            assert ("Your token may only read" in source) is (role is Role.READ)


async def test_the_file_of_tokens_is_read_again_when_it_changes(tmp_path: Path) -> None:
    """A new token works, a removed one and its session do not; wrong content changes nothing."""
    async with _with_tokens(tmp_path) as w:
        file = tmp_path / "tokens.toml"
        _, _, session = await ask(w, "POST", "/session", None, data={"token": TOKENS[Role.OPERATE]})
        cookies = {"gce_backend_session": session or ""}
        w.session.cookie_jar.clear()
        assert (await ask(w, "GET", "/api/status", None, cookies=cookies))[0] == 200
        good = file.read_text()
        file.write_text(good + '[carol]\nrole = "boss"\ntoken = "carol-0123456789abcdef"\n')
        await w.pass_time(12)
        assert (await ask(w, "GET", "/api/status", TOKENS[Role.OPERATE]))[0] == 200
        assert (await ask(w, "GET", "/api/status", "carol-0123456789abcdef"))[0] == 401
        told = (await ask(w, "GET", "/metrics", TOKENS[Role.READ]))[1]
        assert "gce_backend_http_tokens_valid 0.0" in told
        alice = good.index('["alice')
        without = good[:alice] + good[good.index("[", alice + 1) :]
        file.write_text(without + '[carol]\nrole = "read"\ntoken = "carol-0123456789abcdef"\n')
        await w.pass_time(6)
        assert (await ask(w, "GET", "/api/status", "carol-0123456789abcdef"))[0] == 200
        assert (await ask(w, "GET", "/api/status", TOKENS[Role.OPERATE]))[0] == 401
        assert (await ask(w, "GET", "/api/status", None, cookies=cookies))[0] == 401
        told = (await ask(w, "GET", "/metrics", TOKENS[Role.READ]))[1]
        assert "gce_backend_http_tokens_valid 1.0" in told
