"""Mutated configurations, answers and requests, and what became of them.

    make fuzz COUNT=500000

Nothing but the project's own errors may be raised, no answer may be a 5xx (but for 501, of what the
embedded cloud does not serve), and no token may be in an answer, a log line or an error.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import io
import json
import logging
import random
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
import structlog
from aiohttp import web
from yarl import URL

from foreign_clients.recording import Recording
from fuzz.mutations import TEXTS, spoiled_bytes, spoiled_json, spoiled_text
from gce_backend.base.errors import BackendError
from gce_backend.clients.compute.call_budget import CallBudget, QuotaGroup
from gce_backend.clients.compute.links import ResourceLink
from gce_backend.clients.machine_provider import CatalogMachine
from gce_backend.configuration import parsing
from gce_backend.configuration.problems import InvalidConfigurationError
from gce_backend.daemon.clients import Clients, Remotes
from gce_backend.engine.metrics import Metrics
from gce_backend.localcloud.cloud import CloudOptions
from gce_backend.localcloud.datastore import DatastoreService
from support.every_field import EVERY_FIELD
from support.fleet_harness import CONTROL_TOKEN, PROJECT, ZONE, World, manager, world
from support.simulation import VirtualTimeLoop
from support.watch import BY_HAND

ROOT = Path(__file__).parents[1]
SHARES = {"configurations": 0.4, "answers": 0.3, "requests": 0.3}
AT_A_TIME = 20


class Findings:
    """What became of mutated things.

    Attributes:
        tried: how many there were, by campaign.
        outcomes: how they ended, by campaign.
        foreign: exceptions that are not the project's, with the case that raised them.
        server_errors: requests that were answered with a 5xx.
        tokens: where a token was found.
    """

    def __init__(self) -> None:
        self.tried: Counter[str] = Counter()
        self.outcomes: dict[str, Counter[str]] = {}
        self.foreign: dict[str, str] = {}
        self.server_errors: dict[str, str] = {}
        self.tokens: list[str] = []
        self.counts: Counter[str] = Counter()

    def end(self, campaign: str, outcome: str) -> None:
        """Counts one case."""
        self.tried[campaign] += 1
        self.outcomes.setdefault(campaign, Counter())[outcome] += 1

    def foreign_error(self, where: str, error: BaseException, case: object) -> None:
        """Remembers an exception that is not the project's."""
        self.counts["foreign"] += 1
        trace = error.__traceback__
        while trace is not None and trace.tb_next is not None:
            trace = trace.tb_next
        line = f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}" if trace else ""
        self.foreign.setdefault(f"{where}: {type(error).__name__} at {line}", f"{case!r:.600}")

    def look_for_tokens(self, where: str, text: str) -> None:
        """Whether a text holds a token."""
        if CONTROL_TOKEN in text or "ya29." in text:
            self.counts["tokens"] += 1
            self.tokens.append(f"{where}: {text[:300]}")

    def report_each_minute(self, since: float) -> float:
        """Prints what there is once a minute; when it last did, in monotonic seconds."""
        if time.monotonic() - since < 60:
            return since
        self.report()
        return time.monotonic()

    def report(self) -> None:
        """Prints what there is."""
        for campaign, number in self.tried.items():
            outcomes = ", ".join(f"{name} {n}" for name, n in self.outcomes[campaign].most_common())
            print(f"{campaign}: {number} ({outcomes})", flush=True)
        print(f"found: {dict(self.counts)}", flush=True)
        for found in (self.foreign, self.server_errors):
            for what, case in list(found.items())[:40]:
                print(f"  {what}\n    {case}", flush=True)
        for token in self.tokens[:10]:
            print(f"  token: {token}", flush=True)


class Crashes(logging.Handler):
    """Counts what a server of this process did not handle."""

    def __init__(self, findings: Findings) -> None:
        super().__init__(logging.ERROR)
        self._findings = findings

    def emit(self, record: logging.LogRecord) -> None:
        """Remembers the exception."""
        if record.exc_info is not None and record.exc_info[1] is not None:
            self._findings.foreign_error("server", record.exc_info[1], record.getMessage())


def configurations(findings: Findings, count: int, chance: random.Random) -> None:
    """Both files, spoiled one at a time."""
    templates, managers = EVERY_FIELD, manager("whole") + manager("snapped")
    files = {"scripts/start.sh": "echo"}
    since = time.monotonic()
    for number in range(count):
        both = [templates, managers]
        which = number % 2
        both[which] = spoiled_text(both[which], chance)
        try:
            parsing.parse(both[0], both[1], files)
        except InvalidConfigurationError as error:
            str(error)
            outcome = "refused"
        except Exception as error:  # noqa: BLE001 -- that is what is looked for
            findings.foreign_error("configuration", error, both[which])
            outcome = "foreign"
        else:
            outcome = "taken"
        findings.end("configurations", outcome)
        since = findings.report_each_minute(since)


class Spoiler:
    """Spoils what the embedded cloud answers, while it is active."""

    def __init__(self, w: World, chance: random.Random) -> None:
        self.active = False
        self.spoiled = 0
        serve = w.cloud._serve

        async def spoiling(*given: Any) -> web.Response:
            response = await serve(*given)
            body = response.body
            if not self.active or not isinstance(body, bytes) or not body:
                return response
            self.spoiled += 1
            with contextlib.suppress(ValueError):
                body = spoiled_json(json.loads(body), chance)
            status = chance.choice((200, 200, 200, 200, 400, 404, 409, 412, 429, 500, 503))
            headers = {}
            if chance.random() < 0.1:
                odd = chance.choice(("0", "-1", "999999999", "1e9", "nan", "x", "Wed, 21 Oct 2015"))
                headers["Retry-After"] = odd
            return web.Response(
                status=status, body=body, content_type="application/json", headers=headers
            )

        w.cloud._serve = spoiling  # type: ignore[method-assign, assignment]  # that is the point


async def answers(findings: Findings, count: int, chance: random.Random, folder: Path) -> None:
    """What the daemon's clients make of spoiled answers."""
    async with world(folder) as w:
        await w.until_states(cataloged=3)
        name, group = min(await w.vms()), next(iter(await w.groups()))
        spoiler = Spoiler(w, chance)
        clients = Clients(w.settings, w.clock, random.Random(0), Metrics())
        budget = CallBudget(w.clock, dict.fromkeys(QuotaGroup, 1_000_000))
        compute = clients.compute(budget)
        context = w.daemon.context
        assert context is not None
        await w.daemon.abort()  # it would live through each wait of a client
        remotes = Remotes(
            session=clients.session,
            tokens=clients.identity,
            settings=w.settings,
            fleet=context.fleet,
            observer=Metrics(),
        )
        store, pubsub = clients.datastore(PROJECT), clients.pubsub(PROJECT)
        template = (("InstanceTemplate", "linux"),)
        operation = ResourceLink(PROJECT, f"zones/{ZONE}", "operations", "operation-1")
        added = CatalogMachine({"hostname": "new", "backend": "GCE"}, {})
        calls: dict[str, Callable[[], Awaitable[Any]]] = {
            "list_groups": lambda: compute.list_groups(PROJECT),
            "list_managed_instances": lambda: compute.list_managed_instances(PROJECT, ZONE, group),
            "list_instance_templates": lambda: compute.list_instance_templates(PROJECT),
            "list_instances": lambda: compute.list_instances(PROJECT, 'status = "RUNNING"'),
            "list_snapshots": lambda: compute.list_snapshots(PROJECT, 'name = "a"'),
            "list_whole_instances": lambda: compute.list_instances(PROJECT, whole=True),
            "list_operations": lambda: compute.list_operations(PROJECT, ZONE, pages=2),
            "get_instance": lambda: compute.get_instance(PROJECT, ZONE, name),
            "get_group": lambda: compute.get_group(PROJECT, ZONE, group),
            "get_operation": lambda: compute.get_operation(operation),
            "get_machine_type": lambda: compute.get_machine_type(PROJECT, ZONE, "n1-standard-1"),
            "lookup": lambda: store.lookup([template]),
            "query": lambda: store.query("InstanceTemplate"),
            "pull": lambda: pubsub.pull("gce-backend", 10),
            "catalog.get": lambda: remotes.broker().get(name),
            "catalog.delete_machine": lambda: remotes.broker().delete_machine("nobody"),
            "catalog.add_machines": lambda: remotes.broker().add_machines([added]),
        }
        since = time.monotonic()
        while spoiler.spoiled < count:
            what, before = chance.choice(list(calls)), spoiler.spoiled
            spoiler.active = True
            try:
                await calls[what]()
            except BackendError as error:
                findings.look_for_tokens(what, str(error))
                outcome = "an error of ours"
            except Exception as error:  # noqa: BLE001 -- that is what is looked for
                findings.foreign_error(what, error, what)
                outcome = "foreign"
            else:
                outcome = "understood"
            spoiler.active = False
            for _ in range(spoiler.spoiled - before):
                findings.end("answers", outcome)
            if spoiler.spoiled == before:  # nobody was asked: a token or a budget is waited for
                await asyncio.sleep(30)
            since = findings.report_each_minute(since)
        await clients.close()
        await w.start_daemon()
        await w.pass_time(1200)
        await w.until_states(cataloged=3)  # all is as it was


def bases() -> list[tuple[str, str, str, bytes]]:
    """What foreign clients and callers of the original have asked: verb, path, type, body."""
    found = [
        (one.verb, one.path, one.kind, one.body.encode())
        for recorded in sorted((ROOT / "foreign_clients" / "recorded").glob("*.jsonl"))
        for one in Recording.read(recorded).exchanges
    ]
    original = ROOT / "localcloud" / "original_machine_provider.jsonl"
    for line in original.read_text(encoding="utf-8").splitlines():
        asked = json.loads(line)
        if "method" not in asked:
            continue
        path = f"/_ah/api/{asked['method'].replace('.', '/v1/')}"
        body = json.dumps(asked.get("body", {})).encode()
        found.append(("POST", path, "application/json", body))
    return found


def of_the_daemon(name: str) -> list[tuple[str, str, str, bytes]]:
    """Requests for the daemon's pages, documents and orders."""
    read: tuple[str, ...] = (
        "/",
        "/machines?q=a&state=leased&page=2",
        f"/machines/{name}",
        "/jobs",
        "/messages",
    )
    read += ("/events?kind=machine&name=a", "/configuration", "/metrics", "/healthz", "/readyz")
    read += ("/api/status", "/api/fleet", "/api/events?limit=5&since=1", "/api/control")
    read += (f"/api/explain?name={name}", "/api/machines?page=1&limit=5", "/api/groups?selector=a")
    orders: tuple[tuple[str, dict[str, Any]], ...] = (
        ("pause", {"reason": "x", "template": "linux", "zone": ZONE}),
        ("resume", {"all": True}),
        ("approve", {"revision": "abc"}),
        ("drain", {"name": name, "reason": "x", "max_unavailable": 1}),
        ("undrain", {"name": name}),
        ("cordon", {"name": name, "reason": "x"}),
        ("uncordon", {"name": name}),
        ("lift-cap", {"seconds": 5}),
        ("ack-messages", {"message_ids": ["1"]}),
    )
    found = [("GET", path, "", b"") for path in read]
    found += [
        ("POST", f"/api/{order}", "application/json", json.dumps(body).encode())
        for order, body in orders
    ]
    return found


def spoiled_path(path: str, chance: random.Random) -> str:
    """A path and query with a piece that is another."""
    if chance.random() < 0.75:
        return path
    pieces = re.split(r"([/?&=:])", path)
    pieces[chance.randrange(len(pieces))] = quote(
        chance.choice(TEXTS).encode("utf-8", "surrogatepass")[:2000], safe="%"
    )
    return "/" + "".join(pieces).lstrip("/")


async def requests(findings: Findings, count: int, chance: random.Random, folder: Path) -> None:
    """Spoiled requests for the embedded cloud and for the daemon."""
    options = CloudOptions(authenticate=False).instant()  # what was recorded brings no tokens
    async with world(folder, options=options) as w:
        await w.until_states(cataloged=3)
        known = bases()
        daemons = of_the_daemon(min(await w.vms()))
        since = time.monotonic()
        async with aiohttp.ClientSession(headers=BY_HAND) as session:
            for number in range(count):
                is_daemon = number % 4 == 0
                verb, path, kind, body = chance.choice(daemons if is_daemon else known)
                url = (w.daemon.url if is_daemon else w.cloud.base_url) + spoiled_path(path, chance)
                if body:
                    try:
                        body = spoiled_json(json.loads(body), chance)
                    except ValueError:
                        body = spoiled_bytes(body, chance)
                headers = {"Content-Type": kind} if kind else {}
                if is_daemon and verb == "POST":
                    headers["Authorization"] = f"Bearer {CONTROL_TOKEN}"
                await _ask(findings, session, (verb, url, headers, body), is_daemon=is_daemon)
                since = findings.report_each_minute(since)
        for service in w.cloud._services:
            if isinstance(service, DatastoreService):
                service._composites.clear()  # whoever asks by chance declares nothing


async def _ask(
    findings: Findings,
    session: aiohttp.ClientSession,
    asked: tuple[str, str, dict[str, str], bytes],
    *,
    is_daemon: bool,
) -> None:
    verb, url, headers, body = asked
    try:
        request = session.request(
            verb, URL(url, encoded=True), headers=headers, data=body or None, allow_redirects=False
        )
        async with request as response:
            status, text = response.status, (await response.read()).decode("utf-8", "replace")
    except (aiohttp.ClientError, ValueError):
        findings.end("requests", "not sent, or cut")
        return
    findings.end("requests", f"{status // 100}xx" if status != 501 or is_daemon else "501")
    if status >= 500 and (is_daemon or status != 501):
        findings.counts["5xx"] += 1
        path = url.partition("//")[2].partition("/")[2]
        findings.server_errors.setdefault(
            f"{verb} {path[:60]}: {status} {text[:150]}", f"{body!r:.500}"
        )
    if is_daemon:
        findings.look_for_tokens(f"{verb} {url}", text)


def main() -> int:
    """Prints a table; 1 when something was found."""
    parser = argparse.ArgumentParser(prog="make fuzz", description=__doc__)
    parser.add_argument("--count", type=int, default=10_000, help="cases in all")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", choices=sorted(SHARES), help="one campaign alone")
    given = parser.parse_args()
    findings = Findings()
    logged = io.StringIO()
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(logged))
    logging.getLogger("aiohttp.server").addHandler(Crashes(findings))
    shares = SHARES if given.only is None else {given.only: 1.0}
    for campaign, share in shares.items():
        chance, count = random.Random(f"{campaign} {given.seed}"), int(given.count * share)
        if campaign == "configurations":
            configurations(findings, count, chance)
            continue
        work = answers if campaign == "answers" else requests
        with (
            tempfile.TemporaryDirectory() as folder,
            asyncio.Runner(loop_factory=VirtualTimeLoop) as runner,
        ):
            runner.run(work(findings, count, chance, Path(folder)))
    findings.look_for_tokens("log", logged.getvalue()[:50_000_000])
    for line in logged.getvalue().splitlines():
        if "Traceback" in line:
            findings.counts["logged tracebacks"] += 1
            findings.foreign.setdefault("log: " + line[-300:], line[:600])
    findings.report()
    return 1 if findings.counts.total() else 0


if __name__ == "__main__":
    sys.exit(main())
