"""The embedded Compute Engine's lists: pages, order, filters, scopes, and what `fields` chooses."""

from __future__ import annotations

import re
from typing import Any

import pytest

from gce_backend.localcloud.cloud import Call, CloudOptions
from gce_backend.localcloud.compute import filters, listing
from gce_backend.localcloud.compute.listing import Names
from gce_backend.localcloud.faults import Fault
from localcloud.compute_world import (
    GROUPS,
    INSTANCES,
    TEMPLATES,
    ZONE,
    World,
    group_body,
    template_body,
    world,
)

INSTANT = CloudOptions().instant()
OTHER = "us-east1-b"


async def names_of(at: World, path: str, **query: str) -> list[str]:
    """The names on all pages of a list."""
    found, more = [], True
    while more:
        page = await at.get(path, **query)
        found += [item["name"] for item in page.get("items", [])]
        query["pageToken"] = page.get("nextPageToken", "")
        more = "nextPageToken" in page
    return found


# Pages and order


async def test_newest_first_is_the_order_of_creation_on_every_page() -> None:
    """`creationTimestamp desc` goes through all pages; equal times stand in order of name."""
    async with world() as at:
        for name in ("c", "a", "b"):
            await at.template(name)
        await at.done(await at.post(TEMPLATES, template_body("e")))
        assert await names_of(at, TEMPLATES) == ["a", "b", "c", "e"]
        newest = {"orderBy": "creationTimestamp desc"}
        for size in ("1", "2", "500"):
            assert await names_of(at, TEMPLATES, maxResults=size, **newest) == ["e", "b", "a", "c"]
        pair = [at.post(TEMPLATES, template_body(name)) for name in ("y", "x")]
        for operation in [await call for call in pair]:
            await at.done(operation)
        assert (await names_of(at, TEMPLATES, maxResults="1", **newest))[:2] == ["x", "y"]
        operations = (await at.get("global/operations", **newest))["items"]
        made = [operation["insertTime"] for operation in operations]
        assert made == sorted(made, reverse=True)
        assert len(set(made)) > 1


async def test_page_goes_on_behind_the_last_item_whatever_was_made_or_deleted_meanwhile() -> None:
    """An item that stays is listed exactly once; what comes before the place is not listed late."""
    async with world(INSTANT) as at:
        for name in ("b", "d", "f"):
            await at.template(name)
        first = await at.get(TEMPLATES, maxResults="2")
        for name in ("a", "e"):
            await at.template(name)
        await at.done((await at.call("DELETE", f"{TEMPLATES}/d")).body)
        rest = await at.get(TEMPLATES, pageToken=first["nextPageToken"])
        assert [item["name"] for item in rest["items"]] == ["e", "f"]
        assert "nextPageToken" not in rest


async def test_filter_works_before_pages_are_cut() -> None:
    """A page is full of what passes, and the last one says that it is the last."""
    async with world(INSTANT) as at:
        for name in ("a-1", "b-1", "a-2", "b-2", "b-3"):
            await at.template(name)
        page = await at.get(TEMPLATES, filter="name eq b-.*", maxResults="2")
        assert [item["name"] for item in page["items"]] == ["b-1", "b-2"]
        query = {"filter": "name eq b-.*", "maxResults": "2", "pageToken": page["nextPageToken"]}
        last = await at.get(TEMPLATES, **query)
        assert [item["name"] for item in last["items"]] == ["b-3"]
        assert "nextPageToken" not in last


@pytest.mark.parametrize(
    "query",
    [
        {"maxResults": "501"},
        {"maxResults": "-1"},
        {"maxResults": "ten"},
        {"maxResults": "9" * 5000},
        {"pageToken": "?"},
        {"pageToken": "bm90IGpzb24="},
        {"orderBy": "id"},
        {"orderBy": "creationTimestamp"},
    ],
)
async def test_wrong_list_parameter_is_refused(query: dict[str, str]) -> None:
    """Better refused than a list that is not what was asked for."""
    async with world() as at:
        reply = await at.call("GET", TEMPLATES, **query)
        assert (reply.status, reply.reason) == (400, "invalid")


async def test_page_token_of_another_order_is_refused() -> None:
    """A token means a place in one order."""
    async with world(INSTANT) as at:
        for name in ("a", "b"):
            await at.template(name)
        token = (await at.get(TEMPLATES, maxResults="1"))["nextPageToken"]
        reply = await at.call("GET", TEMPLATES, pageToken=token, orderBy="creationTimestamp desc")
        assert reply.status == 400


async def test_lists_of_a_groups_members_and_errors_take_no_order() -> None:
    """Google documents that they do not support it; listErrors supports no filter either."""
    async with world(INSTANT) as at:
        await at.template()
        await at.group(size=3)
        await at.stable()
        group = f"{GROUPS}/workers"
        for path, verb, query in (
            ("listManagedInstances", "POST", {"orderBy": "name"}),
            ("listErrors", "GET", {"orderBy": "name"}),
            ("listErrors", "GET", {"filter": "timestamp:*"}),
        ):
            assert (await at.call(verb, f"{group}/{path}", **query)).reason == "invalid"
        [first, *_] = await at.members()
        found = await at.post(f"{group}/listManagedInstances", filter=f"name = {first['name']}")
        assert [member["id"] for member in found["managedInstances"]] == [first["id"]]


# Scopes


async def test_aggregated_list_has_a_scope_per_zone_and_pages_across_zones() -> None:
    """Empty scopes carry a warning, and pages add up to everything."""
    async with world(INSTANT) as at:
        await at.template()
        for zone in (OTHER, ZONE):
            for name in ("a", "b", "c"):
                path = f"zones/{zone}/instanceGroupManagers"
                await at.done(await at.post(path, group_body(name, 1)))
        path = "aggregated/instanceGroupManagers"
        whole = await at.get(path)
        scope = whole["items"][f"zones/{ZONE}"]
        assert [g["name"] for g in scope["instanceGroupManagers"]] == ["a", "b", "c"]
        empty = whole["items"]["zones/europe-west1-b"]
        assert empty["warning"]["code"] == "NO_RESULTS_ON_PAGE"
        seen = []
        query = {"maxResults": "2"}
        for _ in range(3):
            page = await at.get(path, **query)
            for where, found in page["items"].items():
                seen += [(where, g["name"]) for g in found.get("instanceGroupManagers", [])]
            query["pageToken"] = page.get("nextPageToken", "")
        assert query["pageToken"] == ""
        zones = (f"zones/{ZONE}", f"zones/{OTHER}")
        assert seen == [(zone, name) for zone in zones for name in "abc"]
        vms = await at.get("aggregated/instances", maxResults="500")
        assert len(vms["items"][f"zones/{ZONE}"]["instances"]) == 3


async def test_operations_of_all_scopes_are_one_list() -> None:
    """Global ones and those of every zone; a filter tells what failed."""
    async with world(INSTANT) as at:
        await at.template()
        await at.group()
        at.cloud.faults.add(Fault(kind="operation", method="compute.*", reason="INTERNAL_ERROR"))
        await at.done(await at.post(f"{GROUPS}/workers/resize", size="3"))
        scopes = (await at.get("aggregated/operations"))["items"]
        assert [o["operationType"] for o in scopes["global"]["operations"]] == ["insert"]
        assert len(scopes[f"zones/{ZONE}"]["operations"]) == 2
        failed = "httpErrorStatusCode >= 400"
        scopes = (await at.get("aggregated/operations", filter=failed))["items"]
        [operation] = scopes[f"zones/{ZONE}"]["operations"]
        assert operation["operationType"].endswith("resize")
        assert "warning" in scopes["global"]


@pytest.mark.parametrize("collection", ["instances", "instanceGroupManagers", "disks"])
async def test_zone_that_is_out_is_named_in_a_partial_success_and_fails_others(
    collection: str,
) -> None:
    """Who does not opt in to partial success gets an error instead of a list with a hole."""
    async with world(INSTANT) as at:
        await at.template()
        for zone in (ZONE, OTHER):
            path = f"zones/{zone}/instanceGroupManagers"
            await at.done(await at.post(path, group_body(size=1)))
        await at.later(1)
        outage = Fault(kind="outage", zone=OTHER, times=None)
        at.cloud.faults.add(outage)
        path = f"aggregated/{collection}"
        refused = await at.call("GET", path)
        assert (refused.status, refused.reason) == (503, "backendError")
        partial = await at.get(path, returnPartialSuccess="true")
        assert partial["items"][f"zones/{OTHER}"]["warning"]["code"] == "UNREACHABLE"
        assert partial["unreachables"] == [f"projects/fleet-1/zones/{OTHER}"]
        assert len(partial["items"][f"zones/{ZONE}"][collection]) == 1
        assert (await at.call("GET", f"zones/{OTHER}/{collection}")).status == 503
        assert (await at.call("GET", f"zones/{ZONE}/{collection}")).status == 200
        assert outage.fired == 3
        at.cloud.faults.clear()
        assert "unreachables" not in await at.get(path)


# Filters


NAMES = ("a", "a-1", "a-1x", "a-2", "ab-1", "b-1", "b-10", "b-2", "b-x-1")


@pytest.mark.parametrize(
    ("pattern", "prefixes"),
    [
        ("a-(1|2)", {"a-"}),
        ("a-(1|2)|b-1", {"a-", "b-1"}),
        ("a|a-1|b-x-(1)", {"a", "a-1", "b-x-"}),
        ("ab?-1", {""}),
        ("b-10*", {""}),
        ("b-1.*|ab-1", {"b-1", "ab-1"}),
        ("(a|b)-1", {""}),
        ("|a", {"", "a"}),
        (".*-1", {""}),
        ("b-[12]", {""}),
        ("(?i:A)-1|b-2", {"", "b-2"}),
        ("b-1(x)?|b-2{1}", {"b-1", ""}),
    ],
)
def test_list_makes_only_the_resources_whose_names_pass(pattern: str, prefixes: set[str]) -> None:
    """Only names with an alternative's beginning are tried, and only those that match are made."""
    condition = f'name eq "{pattern}"'
    wanted = filters.parse(condition, "#Instance")
    assert set(wanted.prefixes) == prefixes
    names, made = Names(), list[str]()
    for name in reversed(NAMES):
        names.add(name)

    def render(name: str) -> dict[str, str]:
        made.append(name)
        return {"name": name}

    request: Any = None
    call = Call("compute.instances.list", {}, {"filter": condition}, {}, request)
    found = [item["name"] for item in listing.page(call, names.after, render).items]
    assert made == found == [name for name in NAMES if re.fullmatch(pattern, name)]


def test_negated_pattern_leaves_the_other_names() -> None:
    """NOT and `ne` say what a name must not be: every name is tried."""
    for condition in ("NOT name eq a-1", "NOT (name eq a-1)", "name ne a-1", "name != a-1"):
        wanted = filters.parse(condition, "#Instance")
        assert [name for name in NAMES if wanted.passes_name(name)] == [*NAMES[:1], *NAMES[2:]]
        assert wanted.prefixes == ("",)


def test_newest_first_makes_only_what_is_on_the_page() -> None:
    """Where creation times are known without the resources, a page costs what it shows."""
    names, made = Names(NAMES), list[str]()

    def render(name: str) -> dict[str, str]:
        made.append(name)
        return {"name": name, "insertTime": render_time(name)}

    request: Any = None
    query = {"orderBy": "creationTimestamp desc", "maxResults": "2"}
    call = Call("compute.zoneOperations.list", {}, query, {}, request)
    page = listing.page(call, names.after, render, render_time)
    assert [item["name"] for item in page.items] == ["b-x-1", "a-1x"]
    assert len(made) == 3  # one more says whether there is another page


def render_time(name: str) -> str:
    """A creation time: the longer a name, the later."""
    return f"2026-01-01T00:00:{len(name):02}Z"


def test_names_stay_in_order_and_go_when_they_are_removed() -> None:
    """A set of names is sorted whatever comes and goes."""
    names = Names(["b", "d"])
    for name in ("c", "a", "c"):
        names.add(name)
    for name in ("b", "b", "e"):
        names.discard(name)
    assert [*names] == names.after("") == ["a", "c", "d"]
    assert len(names) == 3
    assert names.after("a") == ["c", "d"]
    assert names.after("a", ("d", "a", "dd")) == ["d"]


@pytest.mark.parametrize(
    ("condition", "names"),
    [
        ("name = b-1", ["b-1"]),
        ('name="b-1"', ["b-1"]),
        ("name eq b-.*", ["b-1", "b-2"]),
        ("name ne b-(1|2)", ["a-1"]),
        ("name != b-1", ["a-1", "b-2"]),
        ("name eq '(a|b)-1'", ["a-1", "b-1"]),
        ("(name eq .*-1)(name eq b.*)", ["b-1"]),
        ("(name eq .*-1) (description ne '.*b.*')", ["a-1"]),
        ("(name = a-1) OR (name = b-2)", ["a-1", "b-2"]),
        ("(name = a-1) OR (name = b-2) AND (description : b)", ["b-2"]),
        ("name : -1 AND NOT name = a-1", ["b-1"]),
        ("NOT (name = a-1 OR name = b-1)", ["b-2"]),
        ("name > a-1 name < b-2", ["b-1"]),
        ("name >= b-1 AND name <= b-2", ["b-1", "b-2"]),
        ('creationTimestamp > "2000-01-01T00:00:00Z"', ["a-1", "b-1", "b-2"]),
        ('creationTimestamp < "2000-01-01T01:00:00+01:00"', []),
        ("properties.disks.initializeParams.diskSizeGb > 9", ["a-1", "b-1", "b-2"]),
        ("properties.disks.initializeParams.diskSizeGb >= 20.5", []),
        ("properties.disks.boot = true", ["a-1", "b-1", "b-2"]),
        ("properties.labels.owner = tests", ["a-1", "b-1", "b-2"]),
        ("properties.labels.owner:*", ["a-1", "b-1", "b-2"]),
        ("properties.labels.absent:*", []),
        ("properties.labels.absent != x", ["a-1", "b-1", "b-2"]),
        ("description eq 'made b-1'", ["b-1"]),
        ("description : B-2", ["b-2"]),
        ("properties.tags.items = internal", ["a-1", "b-1", "b-2"]),
    ],
)
async def test_filter_selects(condition: str, names: list[str]) -> None:
    """Compute's filter syntax chooses what is listed."""
    async with world(INSTANT) as at:
        for name in ("a-1", "b-1", "b-2"):
            await at.template(name)
        assert await names_of(at, TEMPLATES, filter=condition) == names


@pytest.mark.parametrize(
    "condition",
    [
        *("name", "name ~ x", "(name = a", "name eq [", "= a", "a=b)", "name = ", "name == a"),
        *("nam = a", "properties.label.owner = a", "name.first = a"),
        *("name eq a.* name eq b.*", "name eq a.* AND name ne b", "(name eq a) OR (name eq b)"),
        *("(name eq a.*) (description = x)", "NOT " * 60 + "name = a", "(" * 3000 + "name = a"),
    ],
)
async def test_filter_that_cannot_be_understood_is_refused(condition: str) -> None:
    """Unknown syntax, fields and mixtures are never taken for `no filter` or `nothing`."""
    async with world() as at:
        reply = await at.call("GET", TEMPLATES, filter=condition)
        assert (reply.status, reply.reason) == (400, "invalid")


# Masks


async def test_fields_mask_sends_only_what_is_asked_for() -> None:
    """Commas, slashes, parentheses and wildcards choose parts of answers."""
    async with world(INSTANT) as at:
        await at.template()
        await at.group(size=1)
        await at.stable()
        found = await at.get(TEMPLATES, fields="items(name,properties/labels),nextPageToken")
        assert found == {"items": [{"name": "small", "properties": {"labels": {"owner": "tests"}}}]}
        mask = "items/*/instanceGroupManagers(name,status/isStable)"
        scopes = (await at.get("aggregated/instanceGroupManagers", fields=mask))["items"]
        group = {"name": "workers", "status": {"isStable": True}}
        assert scopes[f"zones/{ZONE}"] == {"instanceGroupManagers": [group]}
        assert set(await at.get(TEMPLATES, fields="kind,items/name,items/id")) == {"kind", "items"}
        for both in ("items,items/name", "items/name,items"):
            assert await at.get(TEMPLATES, fields=both) == await at.get(TEMPLATES, fields="items")
        disks = await at.get(INSTANCES, fields="items/disks(boot,initializeParams/*)")
        assert disks == {"items": [{"disks": [{"boot": True}]}]}
        operation = await at.post(f"{GROUPS}/workers/resize", size="0", fields="name,status")
        assert set(operation) == {"name", "status"}


@pytest.mark.parametrize(
    "fields",
    [
        *("items(", "a,,b", "items)", "", "a b", "items()", "items/", "/items"),
        *("item", "items/nam", "items(name,propertie)", "items/name/first", "items/*/bot"),
        *("items/properties/labels/owner/x", "status"),
    ],
)
async def test_fields_mask_that_the_answer_cannot_have_is_refused(fields: str) -> None:
    """A misspelt field is an error and not an empty answer."""
    async with world() as at:
        reply = await at.call("GET", TEMPLATES, fields=fields)
        assert (reply.status, reply.reason) == (400, "invalidParameter")
        assert reply.body["error"]["errors"][0]["location"] == "fields"
