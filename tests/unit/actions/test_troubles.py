"""actions.troubles: what Compute does not make is in the history, and when that ends."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from support.fleet_harness import ZONE, World, manager, template, world

SELDOM = {"import-config": "* * * * *"}


@pytest.mark.parametrize(
    ("code", "reason"),
    [("ZONE_RESOURCE_POOL_EXHAUSTED", "StockOut"), ("QUOTA_EXCEEDED", "QuotaExceeded")],
)
async def test_line_11_stockouts_and_quotas_are_in_the_history_when_they_begin_and_end(
    tmp_path: Path, code: str, reason: str
) -> None:
    """Line 11. Once each, however often Compute tries in vain, and over a restart."""
    async with world(tmp_path, crons=SELDOM, start=False) as w:
        await w.inject("*", kind="stockout", zone=ZONE, reason=code, times=None)
        await w.start_daemon()
        await w.until(is_told(w, reason))
        await w.pass_time(300)
        await w.restart_daemon()
        await w.pass_time(300)
        begun = await told_of(w, "linux", reason)
        assert [reason_of_it.partition(reason)[0] for reason_of_it in begun] == [
            "Compute does not make its machines: "
        ]
        assert "3 VMs cannot be created" in begun[0]
        await w.clear_faults()
        await w.until_states(cataloged=3)
        await w.pass_time(120)
        assert await told_of(w, "linux", reason) == [*begun, f"{reason} has ended."]


async def test_line_11_a_failing_image_is_in_the_history_when_it_begins(tmp_path: Path) -> None:
    """Line 11. Of the template, with the words of Compute; the mended one is another revision."""
    async with world(tmp_path, templates=template(image_name="missing-one"), crons=SELDOM) as w:
        await w.until(is_told(w, "NotFound"))
        await w.pass_time(900)
        begun = await told_of(w, "linux", "NotFound")
        assert len(begun) == 1
        assert begun[0].startswith("Compute does not make it: NotFound: ")
        assert "missing-one" in begun[0]
        w.write_config(template(image_name="debian-13"), manager())
        await w.until_states(cataloged=3)
        assert await told_of(w, "linux", "NotFound") == begun


async def test_a_template_that_compute_refused_for_a_while_is_told_of_in_the_history(
    tmp_path: Path,
) -> None:
    """When it is made after all, its trouble has ended."""
    async with world(tmp_path, crons=SELDOM, start=False) as w:
        await w.inject("compute.instanceTemplates.insert", status=403, reason="forbidden", times=3)
        await w.start_daemon()
        await w.until_states(cataloged=3)
        told = await told_of(w, "linux", "PermissionDenied")
        assert len(told) == 2
        assert told[0].startswith("Compute does not make it: PermissionDenied: ")
        assert "PermissionDenied has ended." in told[1]


async def told_of(w: World, name: str, word: str) -> list[str]:
    """The reasons of a template's events, and of its groups', that hold a word; oldest first."""
    events = (await w.get(f"/api/events?template={name}&limit=1000")).get("events", [])
    return [event["reason"] for event in events[::-1] if word in event["reason"]]


def is_told(w: World, word: str) -> Callable[[], Awaitable[bool]]:
    """Whether an event holds a word."""

    async def told() -> bool:
        return bool(await told_of(w, "linux", word))

    return told
