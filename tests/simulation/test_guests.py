"""The operator who removes what is in the way, once a daemon has told of it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any
from unittest.mock import AsyncMock

import pytest

from simulation.guests import remove_leftovers
from simulation.pools import ZONES

ZONE = ZONES[0]
FOREIGN = f"group g in local-project, {ZONE} exists and is not ours: delete it"
STRANGERS = "instance template t in local-project belongs to another daemon"


@pytest.mark.parametrize(
    ("conditions", "theirs", "guest", "deleted"),
    [
        ([], False, False, []),
        ([{"reason": "NameTaken", "subject": {}, "message": FOREIGN}], False, True, ["g"]),
        ([{"reason": "NameTaken", "subject": {}, "message": STRANGERS}], False, False, []),
        ([{"reason": "NameTaken", "subject": {}, "message": STRANGERS}], True, False, ["g", "t"]),
        ([{"reason": "NameTaken", "subject": {}, "message": STRANGERS}], True, True, []),
    ],
)
async def test_an_operator_removes_what_a_daemon_tells_of(
    conditions: list[Any], deleted: list[str], *, theirs: bool, guest: bool
) -> None:
    """A group that somebody made under a name of ours, and what a stranger has left behind."""
    group = SimpleNamespace(zone=ZONE, name="g", key=f"local-project/{ZONE}/g")
    world: Any = SimpleNamespace(
        act=AsyncMock(return_value={"conditions": conditions}),
        by_hand=AsyncMock(),
        disturbances=SimpleNamespace(
            made_elsewhere={(ZONE, "g")} if theirs else set(),
            templates_elsewhere={"t"} if theirs else set(),
        ),
        groups=lambda: [group],
        guests=[SimpleNamespace(is_up=guest)],
        note=lambda _: None,
        oracle=SimpleNamespace(by_hand=set()),
        providers=SimpleNamespace(ask=AsyncMock()),
        vms=lambda: [SimpleNamespace(name="g-1", group=group.key)],
    )
    await remove_leftovers(world)
    found = [call.args[1].rpartition("/")[2] for call in world.by_hand.await_args_list]
    assert found == deleted
    assert world.oracle.by_hand == ({group.key} if "g" in deleted else set())
    assert world.providers.ask.await_count == deleted.count("g")
