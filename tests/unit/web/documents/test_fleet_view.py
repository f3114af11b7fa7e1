"""`/api/fleet`: pages of whole groups, which together are what one page would be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from support.fleet_harness import OTHER_ZONE, ZONE, manager, template, world


def _groups(document: dict[str, Any]) -> list[tuple[str, str, int]]:
    """Template, zone and number of machines of each group, in order."""
    return [
        (one["base_name"], group["zone"], len(group["instances"]))
        for one in document["templates"]
        for revision in one["revisions"]
        for group in revision["managers"]
    ]


async def test_pages_of_groups_are_together_what_one_page_would_be(tmp_path: Path) -> None:
    """A page ends with the group that reaches its limit; what is of no group is on the first."""
    managers = manager("a", minimum=2) + manager("a", OTHER_ZONE, minimum=3) + manager("b")
    templates = template("a") + template("b") + template("idle")
    async with world(tmp_path, templates=templates, managers=managers) as w:
        await w.until_states(cataloged=8)
        whole = await w.get("/api/fleet")
        assert whole["next"] is None
        assert sorted(_groups(whole)) == [("a", OTHER_ZONE, 3), ("a", ZONE, 2), ("b", ZONE, 3)]

        cursor: str | None = ""
        found: list[tuple[str, str, int]] = []
        pages: list[dict[str, Any]] = []
        while cursor is not None:
            page = await w.get(f"/api/fleet?limit=3&cursor={cursor}")
            pages.append(page)
            found += _groups(page)
            cursor = page["next"]
        assert found == _groups(whole)
        assert [len(_groups(page)) for page in pages] == [1, 2]
        names = [{one["base_name"] for one in page["templates"]} for page in pages]
        assert "idle" in names[0]
        assert "idle" not in names[1]
        assert all(page["configuration"] == whole["configuration"] for page in pages)

        only = await w.get("/api/fleet?template=b")
        assert _groups(only) == [("b", ZONE, 3)]
        assert [one["base_name"] for one in only["templates"]] == ["b"]
        assert "limit" in (await w.get("/api/fleet?limit=0"))["error"]
