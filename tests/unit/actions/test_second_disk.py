"""A second disk from a snapshot that labels name: found, kept to, and looked for again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from support.fleet_harness import World, manager, template, world

NOTHING = "# nothing yet\n"
LABELS = '  snapshot_labels: "contents:checkout"\n  snapshot_labels: "age:new"\n}'
LABELLED = template().rstrip().removesuffix("}") + LABELS


async def take_snapshot(w: World, name: str, **labels: str) -> None:
    """Makes a snapshot, and lets a second pass."""
    await w.compute("POST", "global/snapshots", {"name": name, "labels": labels})
    await w.pass_time(5.0)


async def disk_sources(w: World) -> list[str]:
    """What the disks of the only instance template are made from."""
    items = (await w.compute("GET", "global/instanceTemplates")).get("items", [])
    disks: list[dict[str, Any]] = [disk for item in items for disk in item["properties"]["disks"]]
    parameters = [disk["initializeParams"] for disk in disks]
    sources = [p.get("sourceImage") or p.get("sourceSnapshot") for p in parameters]
    return [str(source).rpartition("/global/")[2] for source in sources]


async def test_line_15_the_newest_snapshot_that_bears_all_labels_becomes_the_second_disk(
    tmp_path: Path,
) -> None:
    """The image stays what is booted from; the labels are in the catalog."""
    async with world(tmp_path, templates=NOTHING, managers=NOTHING) as w:
        await take_snapshot(w, "first", contents="checkout", age="new")
        await take_snapshot(w, "second", contents="checkout", age="new", more="x")
        await take_snapshot(w, "third", contents="checkout")
        await take_snapshot(w, "fourth", contents="checkout", age="old")
        w.write_config(LABELLED, manager(minimum=1))
        await w.until_states(cataloged=1)
        assert await disk_sources(w) == ["images/debian-12", "snapshots/second"]
        [machine] = await w.machines()
        entry = await w.broker("catalog.get", {"backend": "GCE", "hostname": machine["name"]})
        assert sorted(entry["dimensions"]["snapshot_labels"]) == ["age:new", "contents:checkout"]


async def test_a_template_made_again_keeps_its_snapshot_while_that_exists(tmp_path: Path) -> None:
    """All machines of a revision have the same disks, whatever was snapshotted meanwhile."""
    async with world(tmp_path, templates=NOTHING, managers=NOTHING) as w:
        await take_snapshot(w, "first", contents="checkout", age="new")
        w.write_config(LABELLED, "")
        await w.until(lambda: _has_sources(w, "snapshots/first"))
        await take_snapshot(w, "second", contents="checkout", age="new")
        [item] = (await w.compute("GET", "global/instanceTemplates"))["items"]
        await w.compute("DELETE", f"global/instanceTemplates/{item['name']}")
        await w.until(lambda: _has_sources(w))
        await w.restart_daemon()
        await w.until(lambda: _has_sources(w, "snapshots/first"), 3600.0)


async def test_without_such_a_snapshot_the_template_waits_and_says_so(tmp_path: Path) -> None:
    """It goes on as soon as there is one; other templates do not wait."""
    async with world(tmp_path, templates=NOTHING, managers=NOTHING) as w:
        w.write_config(
            LABELLED + template("other"), manager(minimum=1) + manager("other", minimum=1)
        )
        await w.until_states(cataloged=1)
        conditions = (await w.get("/api/fleet"))["conditions"]
        assert any("has the labels contents:checkout" in c["message"] for c in conditions)
        await take_snapshot(w, "first", contents="checkout", age="new")
        await w.until_states(cataloged=2)


async def _has_sources(w: World, *second: str) -> bool:
    return (await disk_sources(w))[1:] == list(second)
