"""machine_provider.server: who asks from this machine, and who only through a proxy on it."""

from __future__ import annotations

from typing import Any, cast
from unittest.mock import Mock

import pytest
from aiohttp import HttpVersion10, HttpVersion11
from aiohttp.test_utils import make_mocked_request

from gce_backend.machine_provider.server import is_here


def _request(remote: str, *, version: Any = HttpVersion11, **headers: str) -> Any:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    transport = Mock()
    transport.get_extra_info.side_effect = {"peername": (remote, 4711)}.get
    return make_mocked_request(
        "GET", "/metrics", headers=named, version=version, transport=cast("Any", transport)
    )


def test_who_asks_directly_from_loopback_is_here() -> None:
    """Others are not."""
    assert is_here(_request("127.0.0.1"))
    assert is_here(_request("::1"))
    assert not is_here(_request("198.51.100.7"))


@pytest.mark.parametrize("header", ["Forwarded", "Via", "X_Forwarded_Proto", "CF_Connecting_IP"])
def test_who_asks_through_a_proxy_on_this_machine_is_not_here(header: str) -> None:
    """Whatever header it sends; one that sends none may still speak HTTP/1.0."""
    assert not is_here(_request("127.0.0.1", **{header: "198.51.100.7"}))
    assert not is_here(_request("127.0.0.1", version=HttpVersion10))
