"""Dates of moments, whatever number somebody sent for one, and lengths of time in words. Pure."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated, TypeAlias

import msgspec

UnixSeconds: TypeAlias = float
"""A moment of the wall clock: seconds since the Unix epoch, in UTC."""

StoredSeconds: TypeAlias = Annotated[UnixSeconds, msgspec.Meta(ge=-1e12, le=1e12)]
"""A time in a stored entity. NaN and times that no clock gives are invalid."""

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
"""Seconds of each unit."""
_LENGTH = re.compile(r"(?:\d+[smhd])+|\d+(?:\.\d+)?")

# A day inside the calendar's limits, so that the dates exist in every time zone.
_FIRST = datetime(1, 1, 2, tzinfo=UTC).timestamp()
_LAST = datetime(9999, 12, 30, tzinfo=UTC).timestamp()


def date(seconds: UnixSeconds) -> datetime:
    """The date of a time, in UTC; for a time outside the calendar, the nearest date in it.

    NaN gives the earliest date.
    """
    return datetime.fromtimestamp(max(_FIRST, min(seconds, _LAST)), UTC)


def length_of_time(text: str) -> float | None:
    """The seconds that `90`, `45s`, `15m`, `1h30m` or `2d` means; None when it is no such text."""
    if not _LENGTH.fullmatch(text):
        return None
    parts = re.findall(r"(\d+)([smhd])", text)
    return float(sum(int(n) * UNITS[unit] for n, unit in parts)) if parts else float(text)


def timestamp(text: str) -> float:
    """The time in an RFC 3339 text, in Unix seconds; 0 when the text is malformed."""
    try:
        return datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError):
        return 0.0
