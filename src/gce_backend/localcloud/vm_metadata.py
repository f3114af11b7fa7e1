"""The metadata server of one VM, at an address of its own.

It answers what the VM's agent asks: who the VM is, its metadata, and tokens of its service account.
A request may wait for a change, as at Google.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
from aiohttp import web

from gce_backend.base.clock import Clock
from gce_backend.localcloud.compute.vm_views import VmFacts
from gce_backend.localcloud.metadata import FLAVOR, MetadataService
from gce_backend.localcloud.trust import trusting

LONGEST_WAIT_SECONDS = 3600.0
STEP_SECONDS = 0.1
"""Seconds between two looks of a request that waits for a change."""
ATTRIBUTES = "instance/attributes/"

_ALL_ATTRIBUTES = ATTRIBUTES + "?recursive=true"
_ROOT = "/computeMetadata/v1"
_NUMBER = "1000000000000000001"


class VmMetadata:
    """The metadata server of a VM.

    Args:
        metadata: issues the tokens.
        facts: returns the VM as it is now.
    """

    def __init__(
        self, metadata: MetadataService, clock: Clock, facts: Callable[[], VmFacts]
    ) -> None:
        self._metadata = metadata
        self._clock = clock
        self._facts = facts
        app = web.Application(middlewares=[trusting, _flavored])
        app.router.add_get("/", self._get_root)
        app.router.add_get(_ROOT + "/{path:.+}", self._get)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)

    async def start(self) -> str:
        """Listens on a free port of loopback; returns host and port."""
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        host, port = self._runner.addresses[0][:2]
        return f"{host}:{port}"

    async def close(self) -> None:
        """Stops listening."""
        await self._runner.cleanup()

    async def _get_root(self, _: web.Request) -> web.Response:
        return web.Response(text="computeMetadata/\n")

    async def _get(self, request: web.Request) -> web.Response:
        path = request.match_info["path"]
        account = "instance/service-accounts/"
        if path.startswith(account):
            owner, _, member = path.removeprefix(account).partition("/")
            return self._account(owner, member, request.query)
        if path == ATTRIBUTES and request.query.get("recursive", "").lower() == "true":
            path = _ALL_ATTRIBUTES
        text = await self._awaited(path, request.query)
        if text is None:
            return web.Response(status=404, text="not found")
        return web.Response(text=text, headers={"ETag": _etag(text)})

    async def _awaited(self, path: str, query: Mapping[str, str]) -> str | None:
        """The text at a path; with `wait_for_change`, once it is another one than the last."""
        text = self._text(path)
        if query.get("wait_for_change", "").lower() != "true":
            return text
        seconds = min(float(query.get("timeout_sec", LONGEST_WAIT_SECONDS)), LONGEST_WAIT_SECONDS)
        last = query.get("last_etag") or _etag(text)
        end = self._clock.monotonic() + seconds
        while _etag(text) == last and self._clock.monotonic() < end:
            await asyncio.sleep(STEP_SECONDS)
            text = self._text(path)
        return text

    def _text(self, path: str) -> str | None:
        vm = self._facts()
        network = "instance/network-interfaces/0/"
        texts = {
            "project/project-id": vm.project,
            "universe/universe-domain": "googleapis.com",
            "instance/id": vm.id,
            "instance/name": vm.name,
            "instance/hostname": f"{vm.name}.{vm.zone}.c.{vm.project}.internal",
            "instance/zone": f"projects/{_NUMBER}/zones/{vm.zone}",
            "instance/preempted": "TRUE" if vm.preempted else "FALSE",
            ATTRIBUTES: "".join(f"{key}\n" for key in sorted(vm.metadata)),
            _ALL_ATTRIBUTES: msgspec.json.encode(vm.metadata, order="sorted").decode(),
        }
        texts |= zip(
            (f"{network}ip", f"{network}access-configs/0/external-ip"), vm.addresses, strict=False
        )
        if path in texts:
            return texts[path]
        key = path.removeprefix(ATTRIBUTES)
        return vm.metadata.get(key) if key != path else None

    def _account(self, owner: str, member: str, query: Mapping[str, str]) -> web.Response:
        """What the VM is told of its service account: address, scopes, tokens."""
        vm = self._facts()
        if not vm.account or owner not in {"default", vm.account}:
            return web.Response(status=404, text="no such service account")
        if member == "token":
            token = self._metadata.access_token(" ".join(vm.scopes), vm.account)
            body = msgspec.json.encode(token)
            return web.Response(body=body, content_type="application/json")
        if member == "identity":
            audience = query.get("audience", "")
            if not audience:
                return web.Response(status=400, text="non-empty audience parameter required")
            claims = _claims(vm, audience, full=query.get("format") == "full")
            return web.Response(text=self._metadata.identity_token(claims))
        texts = {"email": vm.account, "scopes": "\n".join(vm.scopes)}
        if member not in texts:
            return web.Response(status=404, text="not found")
        return web.Response(text=texts[member])


def _claims(vm: VmFacts, audience: str, *, full: bool) -> dict[str, Any]:
    """The claims of an identity token; in full, they also name the VM."""
    subject = str(int(hashlib.sha256(vm.account.encode()).hexdigest()[:16], 16))
    claims: dict[str, Any] = {"aud": audience, "azp": subject, "sub": subject}
    if full:
        claims |= {
            "email": vm.account,
            "email_verified": True,
            "google": {
                "compute_engine": {
                    "instance_id": vm.id,
                    "instance_name": vm.name,
                    "project_id": vm.project,
                    "project_number": int(_NUMBER),
                    "zone": vm.zone,
                }
            },
        }
    return claims


def _etag(text: str | None) -> str:
    return "0" if text is None else hashlib.sha256(text.encode()).hexdigest()[:16]


@web.middleware
async def _flavored(
    request: web.Request, handler: Callable[[web.Request], Any]
) -> web.StreamResponse:
    """Refuses requests without the header that no browser sends, and names the flavor."""
    if request.headers.get("Metadata-Flavor") != "Google" or "X-Forwarded-For" in request.headers:
        return web.Response(status=403, text="the header Metadata-Flavor: Google is missing")
    response: web.StreamResponse = await handler(request)
    response.headers.update(FLAVOR)
    return response
