"""Cookies that both services give to browsers."""

from __future__ import annotations

from aiohttp import web


def set_cookie(
    response: web.StreamResponse, request: web.Request, name: str, value: str, seconds: float
) -> None:
    """Gives a browser a cookie that no script and no other site can use.

    Args:
        response: the answer that carries it.
        request: the request; over https, also if a proxy says so, the cookie is for https alone.
        name: of the cookie.
        value: of the cookie.
        seconds: for which the browser keeps it.
    """
    response.set_cookie(
        name,
        value,
        max_age=int(seconds),
        httponly=True,
        samesite="Strict",
        secure=request.headers.get("X-Forwarded-Proto", request.scheme) == "https",
    )


def drop_cookie(response: web.StreamResponse, name: str) -> None:
    """Takes a cookie from a browser."""
    response.del_cookie(name, httponly=True, samesite="Strict")
