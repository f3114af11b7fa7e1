"""Who may read the pages and documents, who may act, and what a browser's session is worth."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import structlog
from aiohttp import CookieJar, HttpVersion10, web
from aiohttp.test_utils import make_mocked_request
from structlog.testing import capture_logs

from gce_backend.base.clock import SystemClock
from gce_backend.base.guesses import FORGIVEN_SECONDS, MAX_PEERS
from gce_backend.settings.settings import HttpSettings, Secret
from gce_backend.settings.tokens import NamedToken, Role, named_tokens
from gce_backend.web.access import COOKIE, SESSION_SECONDS, Gate
from gce_backend.web.documents.bodies import FORM, MAX_BYTES
from support.broker_messages import one_machine, publish, settled, wire
from support.fleet_harness import CONTROL_TOKEN, World, manager, template, world
from support.html_reader import Page

READ = ("/", "/machines", "/events", "/api/status", "/api/fleet", "/api/control", "/metrics")
OPEN = ("/healthz", "/readyz", "/session", "/static/style.css")
ELSEWHERE = {"Host": "daemon.example.net"}


class Browser:
    """A browser without a script: it follows redirects and keeps cookies."""

    def __init__(self, w: World, host: str | None = None) -> None:
        self._w = w
        self._host = host or w.daemon.url.partition("//")[2]
        self._cookies: dict[str, str] = {}
        self.cookie: Any = None

    async def go(self, path: str, form: dict[str, str] | None = None, origin: str = "") -> Page:
        """A page, or where a form leads to."""
        url, verb = self._w.daemon.url + path, "GET" if form is None else "POST"
        headers = {"Accept": "text/html", "Host": self._host}
        if form is not None:
            headers["Origin"] = origin or f"http://{self._host}"
        async with self._w.session.request(
            verb, url, data=form, headers=headers, cookies=self._cookies, allow_redirects=False
        ) as response:
            for name, morsel in response.cookies.items():
                self.cookie = morsel
                self._cookies[name] = morsel.value
            if response.status == 303:
                return await self.go(response.headers["Location"])
            return Page(response.status, await response.text())

    async def sign_in(self, token: str = CONTROL_TOKEN, to: str = "/") -> Page:
        """Sends the token."""
        return await self.go("/session", {"token": token, "to": to})


def gate(
    *, host: str = "127.0.0.1", token: Secret | None = None, open_on_loopback: bool = True
) -> Gate:
    """A gate of a daemon that listens there."""
    http = HttpSettings(host=host, token=token, open_on_loopback=open_on_loopback)
    tokens = named_tokens(http)
    return Gate(
        http,
        lambda: tokens,
        clock=SystemClock(),
        log=structlog.get_logger(),
        refused=lambda _: None,
    )


async def refusals(w: World, reason: str) -> float:
    """How often the daemon has refused for this reason."""
    async with w.session.get(f"{w.daemon.url}/metrics") as response:
        text = await response.text()
    (line,) = [line for line in text.splitlines() if f'refused_total{{reason="{reason}"}}' in line]
    return float(line.rpartition(" ")[2])


def no_cookies(w: World) -> None:
    """The test's own session is to keep none."""
    assert isinstance(w.session.cookie_jar, CookieJar)
    w.session.cookie_jar.clear()


async def status(w: World, path: str, **headers: str) -> int:
    """The status of a document."""
    async with w.session.get(
        w.daemon.url + path, headers=headers, allow_redirects=False
    ) as response:
        return response.status


@pytest.mark.parametrize("path", READ)
async def test_reading_is_open_on_loopback_by_its_own_name_only(tmp_path: Path, path: str) -> None:
    """A page elsewhere that points its own name at this machine gets nothing without the token."""
    async with world(tmp_path) as w:
        await w.until_states(cataloged=3)
        assert await status(w, path) == 200
        assert await status(w, path, Host="localhost:8080") == 200
        assert await status(w, path, Host="[::1]:8080") == 200
        for host in ("daemon.example.net", "127.0.0.1.example.net", "[::1", ""):
            assert await status(w, path, Host=host) == 401
        right = {**ELSEWHERE, "Authorization": f"Bearer {CONTROL_TOKEN}"}
        assert await status(w, path, **right) == 200
        wrong = {**ELSEWHERE, "Authorization": f"Bearer {CONTROL_TOKEN}x"}
        assert await status(w, path, **wrong) == 401
        basic = {**ELSEWHERE, "Authorization": f"Basic {CONTROL_TOKEN}"}
        assert await status(w, path, **basic) == 401


@pytest.mark.parametrize("path", OPEN)
async def test_probes_and_what_it_takes_to_sign_in_are_open(tmp_path: Path, path: str) -> None:
    """From everywhere, without a token."""
    async with world(tmp_path) as w:
        await w.until_states(cataloged=3)
        assert await status(w, path, **ELSEWHERE) == 200


@pytest.mark.parametrize(
    ("listens", "asked", "reads"),
    [
        ("127.0.0.1", "127.0.0.1:8080", True),
        ("::1", "localhost:8080", True),
        ("0.0.0.0", "127.0.0.1:8080", False),
        ("10.0.0.5", "localhost", False),
        ("localhost", "10.0.0.5:8080", False),
    ],
)
def test_reading_is_open_only_where_the_daemon_listens_on_loopback(
    listens: str, asked: str, reads: bool
) -> None:
    """Whatever name it is asked by, an address that others can reach needs the token."""
    opened = gate(host=listens, token=Secret("t"))
    request = make_mocked_request("GET", "/", headers={"Host": asked})
    assert opened.may_read(request) is reads
    let_in = {"Host": asked, "Authorization": "bearer t"}
    assert opened.may_read(make_mocked_request("GET", "/", headers=let_in))
    closed = gate(host=listens, token=Secret("t"), open_on_loopback=False)
    assert not closed.may_read(request)
    assert closed.may_read(make_mocked_request("GET", "/", headers=let_in))


@pytest.mark.parametrize(
    "header",
    [
        *("Forwarded", "Via", "X-Real-IP", "X-Forwarded-For", "X-Forwarded-Proto"),
        *("X-Forwarded-Host", "X-Forwarded-Port", "x-forwarded-server"),
    ],
)
def test_line_20_a_forwarded_request_is_not_of_this_machine(header: str) -> None:
    """A proxy on this machine may name loopback as the host: its clients are elsewhere."""
    opened = gate(token=Secret("t"))
    headers = {"Host": "127.0.0.1:8080"}
    assert opened.may_read(make_mocked_request("GET", "/", headers=headers))
    forwarded = {**headers, header: "198.51.100.7"}
    assert not opened.may_read(make_mocked_request("GET", "/", headers=forwarded))
    let_in = {**forwarded, "Authorization": "Bearer t"}
    assert opened.may_read(make_mocked_request("GET", "/", headers=let_in))


def test_line_20_what_a_silent_proxy_forwards_is_not_of_this_machine() -> None:
    """With nothing but `proxy_pass`, nginx sends HTTP/1.0, a host of its own, and no mark."""
    headers = {"Host": "127.0.0.1:8080", "Connection": "close"}
    request = make_mocked_request("GET", "/", headers=headers, version=HttpVersion10)
    assert not gate().may_read(request)


async def test_line_22_wrong_tokens_are_slowed_logged_and_counted(tmp_path: Path) -> None:
    """Each answer to a peer's guess waits longer; the right token and the probes never wait."""
    async with world(tmp_path) as w:
        await w.until_states(cataloged=3)
        took = []
        with capture_logs() as logs:
            for number in range(8):
                wrong = {**ELSEWHERE, "Authorization": f"Bearer guess-{number}"}
                before = w.clock.monotonic()
                assert await status(w, "/api/status", **wrong) == 401
                took.append(w.clock.monotonic() - before)
        assert took == sorted(took)
        assert took[0] < 1
        assert 5 <= took[-1] < 6
        right = {**ELSEWHERE, "Authorization": f"Bearer {CONTROL_TOKEN}"}
        before = w.clock.monotonic()
        assert await status(w, "/api/status", **right) == 200
        assert await status(w, "/healthz", **ELSEWHERE) == 200
        assert w.clock.monotonic() - before < 0.25
        lines = [line for line in logs if line["event"] == "http.token_refused"]
        assert [line["tries"] for line in lines] == [1, 2, 3, 4, 5, 6, 7, 8]
        assert {line["remote"] for line in lines} == {"127.0.0.1"}
        assert "guess" not in str(lines)
        assert await refusals(w, "token") == 8


@pytest.mark.parametrize("way", ["order", "form"])
async def test_no_way_to_act_lets_guess_at_leisure(tmp_path: Path, way: str) -> None:
    """The API's orders and the form count alike, and a peer is forgiven after a while."""

    async def guess() -> float:
        before = w.clock.monotonic()
        if way == "order":
            assert await w.act("/api/pause", {}, token="guess") == 401
        else:
            assert (await Browser(w).sign_in("guess")).status == 401
        return w.clock.monotonic() - before

    async with world(tmp_path) as w:
        await w.until_states(cataloged=3)
        first, *_, last = [await guess() for _ in range(6)]
        assert last > 4 * first > 0
        assert await refusals(w, "token") == 6
        await asyncio.sleep(FORGIVEN_SECONDS + 1)
        assert await guess() < 2 * first


def test_only_so_many_peers_are_remembered() -> None:
    """Whoever guesses from many addresses fills no memory."""

    async def guess_from_everywhere() -> int:
        guarded = gate(token=Secret("t"))
        for number in range(MAX_PEERS + 50):
            transport = Mock(get_extra_info=lambda _, n=number: (f"peer-{n}", 1))
            request = make_mocked_request("GET", "/", transport=transport)
            task = asyncio.ensure_future(guarded.slow_down(request))
            await asyncio.sleep(0)
            task.cancel()
        return len(guarded._guesses)

    assert asyncio.run(guess_from_everywhere()) == MAX_PEERS


def test_without_a_token_nobody_is_let_in() -> None:
    """An empty token, or a session signed with nothing, is no token."""
    locked = gate(host="0.0.0.0")
    forged = web.Response()
    nothing = NamedToken("", Role.READ, Secret(""))
    gate(host="").admit(nothing, forged, make_mocked_request("GET", "/"))
    cookie = f"{COOKIE}={forged.cookies[COOKIE].value}"
    for headers in ({"Authorization": "Bearer "}, {"Authorization": "Bearer None"}):
        assert not locked.may_read(make_mocked_request("GET", "/", headers=headers))
    assert not locked.may_read(make_mocked_request("GET", "/", headers={"Cookie": cookie}))


async def test_a_browser_signs_in_and_lands_where_it_wanted(tmp_path: Path) -> None:
    """The token goes in once; the cookie cannot be read by scripts, nor sent by other sites."""
    async with world(tmp_path) as w:
        await w.until_states(cataloged=3)
        browser = Browser(w, "daemon.example.net")
        form = await browser.go("/machines?state=cataloged")
        assert "Sign in" in form.text
        assert form.inputs["to"] == "/machines?state=cataloged"
        assert "local-project" not in form.source
        page = await browser.sign_in(to=form.inputs["to"])
        assert "3 machines" in page.text
        assert browser.cookie["httponly"]
        assert browser.cookie["samesite"] == "Strict"
        assert not browser.cookie["secure"]
        assert CONTROL_TOKEN not in browser.cookie.value
        no_cookies(w)
        assert "3 machines" in (await browser.go("/machines")).text


async def test_a_wrong_token_opens_nothing(tmp_path: Path) -> None:
    """It is said, and no cookie is set."""
    async with world(tmp_path) as w:
        await w.until_states(cataloged=3)
        browser = Browser(w, "daemon.example.net")
        page = await browser.sign_in("guess", to="/machines")
        assert (page.status, "The token is wrong" in page.text) == (401, True)
        assert browser.cookie is None
        assert page.inputs["to"] == "/machines"


@pytest.mark.parametrize("to", ["https://evil.example", "//evil.example", "/\\evil", "/a\r\nX: y"])
async def test_signing_in_leads_nowhere_else(tmp_path: Path, to: str) -> None:
    """A link to the form cannot send people to another site afterwards."""
    async with world(tmp_path) as w:
        await w.until_states(cataloged=3)
        origin = w.daemon.url
        async with w.session.post(
            f"{origin}/session",
            data={"token": CONTROL_TOKEN, "to": to},
            headers={"Origin": origin},
            allow_redirects=False,
        ) as response:
            assert (response.status, response.headers["Location"]) == (303, "/")


async def test_a_session_ends(tmp_path: Path) -> None:
    """By itself after twelve hours, by signing out, and with a daemon that has another token."""
    async with world(tmp_path) as w:
        await w.until_states(cataloged=3)
        browser = Browser(w, "daemon.example.net")
        await browser.sign_in()
        await w.restart_daemon()
        await w.until_states(cataloged=3)
        assert "Machines" in (await browser.go("/")).text
        w.clock.epoch += SESSION_SECONDS + 1
        assert "Sign in" in (await browser.go("/")).text
        await browser.sign_in()
        assert "Sign in" in (await browser.go("/session/end", {})).text
        assert browser.cookie.value == ""


async def test_a_forged_session_is_none(tmp_path: Path) -> None:
    """Another end, another signature, or nonsense."""
    async with world(tmp_path) as w:
        await w.until_states(cataloged=3)
        browser = Browser(w, "daemon.example.net")
        await browser.sign_in()
        ends, _, signature = browser.cookie.value.partition(".")
        forged = (f"{int(ends) + 9}.{signature}", f"{ends}.{'0' * 64}", ends, "", "\u00b2.x")
        for value in forged:
            headers = {**ELSEWHERE, "Cookie": f"{COOKIE}={value}"}
            assert await status(w, "/api/status", **headers) == 401


async def test_pause_and_resume_by_form(tmp_path: Path) -> None:
    """Only who has signed in finds the forms; what they do is what the orders do."""
    async with world(tmp_path) as w:
        await w.until_states(cataloged=3)
        browser = Browser(w)
        page = await browser.go("/")
        assert "Sign in to pause" in page.text
        assert "reason" not in page.inputs
        await browser.sign_in()
        with capture_logs() as logs:
            page = await browser.go("/orders/pause", {"reason": "a look"})
        assert "Paused by operator: everything: a look" in page.text
        assert (await w.get("/api/control"))["paused"]
        (line,) = [line for line in logs if line["event"] == "control.paused"]
        assert line["remote"] == "127.0.0.1"
        await w.pass_time(3)  # the history is read again after two seconds
        events = (await w.get("/api/events?kind=control"))["events"]
        assert events[0]["cause"] == "operator pause"
        page = await browser.go("/orders/resume", {"template": "", "zone": ""})
        assert "Paused" not in page.text
        assert not (await w.get("/api/control"))["paused"]
        await _order_roll_outs(w, browser)


async def _order_roll_outs(w: World, browser: Browser) -> None:
    """Pauses, undoes and resumes a template's roll-out by the buttons of its page."""

    async def active() -> str:
        return str((await w.get("/api/templates"))["templates"][0]["revision"])

    here = "/explain?name=linux"
    page = await browser.go(here)
    assert page.inputs["template"] == "linux"
    assert "Undo the roll-out" not in page.text, "there is no earlier revision"
    first = await active()
    form = {"template": "linux", "reason": "a look", "to": here}
    page = await browser.go("/orders/rollout-pause", form)
    assert "Resume the roll-out" in page.text
    (pause,) = (await w.get("/api/control"))["rollout_pauses"]
    assert (pause["template"], pause["reason"], pause["by"]) == ("linux", "a look", "operator")
    w.write_config(template(machine_type="e2-medium"), manager())
    await w.pass_time(120)
    assert len(await w.vms()) == 3
    page = await browser.go("/orders/rollout-resume", {"template": "linux", "to": here})
    assert "Pause the roll-out" in page.text
    second = await active()
    assert second != first
    page = await browser.go("/orders/rollout-undo", form)
    assert "Resume the roll-out" in page.text
    await w.until(lambda: _is(active, first))
    await w.pass_time(3)  # the history is read again after two seconds
    events = (await w.get("/api/events?kind=control"))["events"]
    assert (events[0]["cause"], events[0]["who"]) == ("operator rollout-undo", "operator")
    await browser.go("/orders/rollout-resume", {"template": "linux", "to": here})
    await w.until(lambda: _is(active, second))
    stranger = Browser(w)
    assert "Sign in to pause or undo" in (await stranger.go(here)).text
    assert (await stranger.go("/orders/rollout-undo", form)).status == 401


async def _is(told: Callable[[], Awaitable[str]], wanted: str) -> bool:
    return await told() == wanted


async def test_a_held_configuration_is_approved_by_form(tmp_path: Path) -> None:
    """The button names the revision, and only that one comes into force."""
    async with world(tmp_path) as w:
        await w.until_states(cataloged=3)
        w.write_config("", "")

        async def held() -> bool:
            return bool((await w.get("/api/control"))["held_revision"])

        await w.until(held)
        browser = Browser(w)
        page = await browser.sign_in()
        revision = (await w.get("/api/control"))["held_revision"]
        assert page.inputs["revision"] == revision
        assert f"Approve {revision[:12]}" in page.text
        await browser.go("/orders/approve", {"revision": revision})
        await w.until(w.has_no_vms)


async def test_set_aside_messages_are_acknowledged_by_button(tmp_path: Path) -> None:
    """Line 14. One by one, or all; only who has signed in finds the buttons."""
    async with world(tmp_path) as w:
        await one_machine(w)
        ids = await publish(w, *(wire(word, {}) for word in ("ONE", "TWO", "THREE")))
        await settled(w)

        async def unseen() -> list[str]:
            shown = (await w.get("/api/messages"))["set_aside"]
            return sorted(one["message_id"] for one in shown if one["seen"] is None)

        browser = Browser(w)
        page = await browser.go("/messages")
        assert "Sign in to acknowledge them" in page.text
        assert "message_ids" not in page.inputs
        form = {"message_ids": ids[0]}
        assert (await browser.go("/orders/ack-messages", form)).status == 401
        page = await browser.sign_in(to="/messages")
        assert "Acknowledge all 3" in page.text
        assert page.inputs["message_ids"] in ids
        assert (await browser.go("/orders/ack-messages", form, origin="null")).status == 403
        assert len(await unseen()) == 3
        assert (await browser.go("/orders/ack-messages", {"message_ids": "x"})).status == 404
        page = await browser.go("/orders/ack-messages", form)
        assert "Acknowledge all 2" in page.text
        assert await unseen() == sorted(ids[1:])
        page = await browser.go("/orders/ack-messages", {})
        assert "Acknowledge" not in page.text
        assert await unseen() == []
        assert "SetAside" not in (await browser.go("/")).text


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://127.0.0.1:1"])
async def test_no_other_site_can_send_an_order(tmp_path: Path, origin: str) -> None:
    """Not even with the session's cookie, nor from another port of this machine."""
    async with world(tmp_path) as w:
        await w.until_states(cataloged=3)
        browser = Browser(w)
        await browser.sign_in()
        page = await browser.go("/orders/pause", {"reason": "x"}, origin=origin)
        assert (page.status, "did not come from a page" in page.text) == (403, True)
        page = await browser.go("/session", {"token": CONTROL_TOKEN}, origin=origin)
        assert page.status == 403
        assert not (await w.get("/api/control"))["paused"]


async def test_an_order_without_a_session_is_refused(tmp_path: Path) -> None:
    """Also on loopback, where reading is open; and what no order is, is none."""
    async with world(tmp_path) as w:
        await w.until_states(cataloged=3)
        browser = Browser(w)
        assert (await browser.go("/orders/pause", {"reason": "x"})).status == 401
        await browser.sign_in()
        assert (await browser.go("/orders/explode", {})).status == 404
        assert (await browser.go("/orders/approve", {"revision": "a b"})).status == 400
        assert (await browser.go("/orders/pause", {"reason": "x" * 501})).status == 400
        assert not (await w.get("/api/control"))["paused"]


@pytest.mark.parametrize("path", ["/session", "/orders/pause"])
@pytest.mark.parametrize(
    ("headers", "body", "status"),
    [
        ({"Content-Type": "multipart/form-data; boundary=x"}, b"--x\r\nnonsense", 415),
        ({"Content-Type": "multipart/form-data"}, b"", 415),
        ({"Content-Type": "text/plain"}, b"reason=x&token=let-me", 415),
        ({"Content-Type": FORM}, b"reason=\xff\xfe", 400),
        ({"Content-Type": FORM}, b"reason=%ff", 400),
        ({"Content-Type": FORM}, b"reason=%ed%a0%80", 400),
        ({"Content-Type": FORM}, b"a=1&" * 30, 400),
        ({"Content-Type": FORM, "Content-Encoding": "gzip"}, b"nothing packed", 400),
        ({"Content-Type": FORM}, b"reason=" + b"x" * MAX_BYTES, 413),
    ],
)
async def test_what_is_no_form_is_refused_and_is_no_error_of_ours(
    tmp_path: Path, path: str, headers: dict[str, str], body: bytes, status: int
) -> None:
    """Whoever reaches the address can send anything: nothing is done, nothing breaks."""
    async with world(tmp_path) as w:
        await w.until(w.is_loaded)
        sent = {
            "Origin": w.daemon.url,
            "Authorization": f"Bearer {CONTROL_TOKEN}",
            **headers,
        }
        async with w.session.post(w.daemon.url + path, data=body, headers=sent) as answer:
            assert answer.status == status
            assert COOKIE not in answer.cookies
        assert not (await w.get("/api/control"))["paused"]


@pytest.mark.parametrize("charset", ["unknown", "utf-16", "raw_unicode_escape"])
async def test_a_form_is_utf8_whatever_it_says(tmp_path: Path, charset: str) -> None:
    """No codec that a stranger names is looked up."""
    async with world(tmp_path) as w:
        await w.until(w.is_loaded)
        sent = {"Origin": w.daemon.url, "Content-Type": f"{FORM}; charset={charset}"}
        form = b"token=" + CONTROL_TOKEN.encode()
        async with w.session.post(
            f"{w.daemon.url}/session", data=form, headers=sent, allow_redirects=False
        ) as answer:
            assert answer.status == 303
        no_cookies(w)
