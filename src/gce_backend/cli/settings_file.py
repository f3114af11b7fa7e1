"""Finds the settings file that a command reads by default."""

from __future__ import annotations

import contextlib
import os
import tomllib
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import click

from gce_backend.settings.settings import SETTINGS_VARIABLE, is_loopback

LOCAL_FILE = Path("var/localcloud.toml")
"""Where `gce-backend run --local` keeps its settings while it runs."""
USUAL_FILE = Path("/etc/gce-backend/settings.toml")
"""Where the systemd units expect the settings."""
CONNECT_SECONDS = 0.2
"""How long the embedded cloud's daemon may take to accept a connection."""
_FOUND = "gce_backend.settings_search"


class Search(NamedTuple):
    """The outcome of a search for a settings file.

    Attributes:
        file: the file that was found; None when there is none.
        passed: the places that had none, each with the reason.
    """

    file: Path | None
    passed: tuple[str, ...]

    def __str__(self) -> str:
        if self.file is not None:
            return f"The settings are those of {self.file}."
        return f"No settings file was found. Looked at: {'; '.join(self.passed)}."


def search(local: Path, usual: Path) -> Search:
    """Searches for a settings file.

    Args:
        local: the file that a running embedded cloud writes.
        usual: the file of an installation.
    """
    passed = [f"--settings and {SETTINGS_VARIABLE} (not given)"]
    for file, why_not in ((local, _not_running(local)), (usual, _not_readable(usual))):
        if why_not is None:
            return Search(file, tuple(passed))
        passed.append(f"{file} ({why_not})")
    return Search(None, tuple(passed))


def _not_running(file: Path) -> str | None:
    """Why a file does not belong to a running embedded cloud; None when it does.

    Every address in it must be on this machine. Otherwise, a file that somebody left in a directory
    could send tokens to another host.
    """
    try:
        document = tomllib.loads(file.read_text("utf-8"))
    except (OSError, ValueError):
        return "no embedded cloud runs in this directory"
    import socket  # not needed for help texts

    endpoints = document.get("endpoints")
    urls = [document.get("url"), *(endpoints.values() if isinstance(endpoints, dict) else [None])]
    places = [place for url in urls if (place := _host_and_port(url)) is not None]
    if len(places) < len(urls):
        return "it names services that are not on this machine"
    with contextlib.suppress(OSError), socket.create_connection(places[0], CONNECT_SECONDS):
        return None
    return "its daemon does not answer"


def _host_and_port(url: Any) -> tuple[str, int] | None:
    """The host and port of a URL on this machine; None for any other URL."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except (AttributeError, TypeError, ValueError):
        return None
    return (host, port) if host and port and is_loopback(host) else None


def _not_readable(file: Path) -> str | None:
    if os.access(file, os.R_OK):
        return None
    return "it cannot be read" if file.exists() else "it does not exist"


def find_settings(context: click.Context, given: Path | None) -> Path | None:
    """The given settings file, or the one that a search finds."""
    if given is not None:
        return given
    found = search(LOCAL_FILE, USUAL_FILE)
    context.meta[_FOUND] = found
    return found.file


def search_of(context: click.Context) -> Search | None:
    """The search that a command's settings come from; None when its file was given."""
    found: Search | None = context.meta.get(_FOUND)
    return found
