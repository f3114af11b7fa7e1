"""The pages as the server draws them: content, escaping, paging, filters, headers, first run."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

from gce_backend.model.entities import CONFIGURATION_KEY, StoredConfiguration
from support.crowd import crowded
from support.fleet_harness import OTHER_ZONE, ZONE, World, manager, template, world
from support.html_reader import Page, visit

TWO_ZONES = manager("linux", ZONE, 3) + manager("linux", OTHER_ZONE, 2, 4)
PAGES = ("/", "/machines", "/jobs", "/messages", "/events", "/configuration", "/session")
ATTACK = "<script>alert(1)</script>"


async def header(w: World, path: str, name: str, **sent: str) -> tuple[int, str]:
    """A status and a header of an answer as it came, unpacked by nobody."""
    async with w.session.get(w.daemon.url + path, headers=sent) as response:
        return response.status, response.headers.get(name, "")


async def test_the_overview_shows_fleet_calls_and_configuration(tmp_path: Path) -> None:
    """At a glance: how many, where, and that nothing is wrong."""
    async with world(tmp_path, managers=TWO_ZONES) as w:
        await w.until_states(cataloged=5)
        await w.lease()
        page = await visit(w, "/")
        assert page.status == 200
        assert "5 in all 1 leased 4 can be leased" in page.text
        assert "None. The fleet is as the configuration asks for" in page.text
        assert f"/explain?name=linux/{OTHER_ZONE}" in page.links
        revision = (await w.get("/api/status"))["configuration"]["revision"]
        assert revision[:12] in page.text
        # The page names the project where there are several.
        assert re.search(r"Share read in [\w-]+ \d+ 1\s3\d\d \d+ of 1400 \w+ in ", page.text)
        assert "17, all well" in page.text


async def test_problems_stand_first_with_their_reason_and_time(tmp_path: Path) -> None:
    """Before any number; each leads to more about it."""
    async with world(tmp_path, managers=TWO_ZONES) as w:
        await w.until_states(cataloged=5)
        await w.inject("*", kind="stockout", zone=OTHER_ZONE, times=None)
        w.write_config(template(), manager("linux", ZONE, 3) + manager("linux", OTHER_ZONE, 4))

        async def short() -> bool:
            return "StockOut" in (await visit(w, "/")).text

        await w.until(short)
        await w.pass_time(180)
        page = await visit(w, "/")
        assert page.text.startswith("Overview Problems 1 warning StockOut group linux-")
        assert re.search(r"StockOut group linux-\S+ for [34] min", page.text)
        group = re.search(r"StockOut group (\S+)", page.text)
        assert group
        assert f"/explain?name={group[1]}" in page.links
        explained = await visit(w, f"/explain?name={group[1]}")
        assert "2 VMs cannot be created" in explained.text


async def test_the_page_of_a_machine_tells_its_story(tmp_path: Path) -> None:
    """State, why, what it waits for, facts, and every transition with its cause."""
    async with world(tmp_path) as w:
        await w.until_states(cataloged=3)
        name = await w.lease()
        page = await visit(w, f"/machines/{name}")
        assert f"{name} leased for" in page.text
        assert "Waits for: The lease has to end" in page.text
        assert "Machine type e2-small" in page.text
        assert re.search(r"cataloged → leased Somebody holds it until .* message LEASED", page.text)
        assert "starting Its group lists it. job fetch-instances" in page.text


async def test_machines_are_searched_filtered_and_paged(tmp_path: Path) -> None:
    """A hundred on a page; the links keep the filter; beyond the last page there is a way back."""
    async with crowded(tmp_path, 500) as w:
        first = await visit(w, "/machines")
        assert "1–100 of 500 machines" in first.text
        assert "Page 1 of 5" in first.text
        assert "/machines?page=2" in first.links
        leased = await visit(w, "/machines?state=leased&page=2")
        assert "101–200 of 200 machines" in leased.text
        assert "/machines?state=leased&page=1" in leased.links
        one = await visit(w, "/machines?q=KIND3-us-east1-b-0002&zone=")
        assert "1 machine Name" in one.text
        assert one.inputs["q"] == "KIND3-us-east1-b-0002"
        none = await visit(w, "/machines?template=kind1&zone=us-east1-b&state=creating")
        assert "No machine matches" in none.text
        beyond = await visit(w, "/machines?page=9")
        assert "There are only 5 pages" in beyond.text
        fleet = await visit(w, "/")
        assert "100 groups" in fleet.text


async def test_whatever_others_wrote_is_text_and_nothing_else(tmp_path: Path) -> None:
    """A reason, a search, a name in the address: no page runs what they hold."""
    async with world(tmp_path) as w:
        await w.until_states(cataloged=3)
        await w.act("/api/pause", {"reason": ATTACK})
        await w.call(
            "POST",
            f"/v1/projects/local-project/topics/{w.settings.pubsub.topic}:publish",
            {"messages": [{"data": "PHNjcmlwdD4=", "attributes": {ATTACK: ATTACK}}]},
        )

        async def aside() -> bool:
            return bool((await w.get("/api/status"))["messages"]["set_aside"])

        await w.until(aside)
        paths = ("/", "/messages", "/events", f"/machines?q={ATTACK}", f"/explain?name={ATTACK}")
        pages = [await visit(w, path) for path in paths]
        assert all(ATTACK in page.text or page.inputs.get("q") == ATTACK for page in pages)
        for page in pages:
            scripts = [attributes for tag, attributes in page.tags if tag == "script"]
            assert [set(attributes) for attributes in scripts] == [{"src", "defer"}]


@pytest.mark.parametrize("path", PAGES)
async def test_a_page_loads_nothing_from_elsewhere(tmp_path: Path, path: str) -> None:
    """And the browser is told to let nothing in, nor any frame around it."""
    async with world(tmp_path) as w:
        await w.until_states(cataloged=3)
        page = await visit(w, path)
        assert page.loaded
        assert f"{w.cloud.base_url}/" in page.links  # the Machine Provider's pages
        ours = [link for link in page.links if not link.startswith(f"{w.cloud.base_url}/")]
        assert all(re.match(r"/(?!/)|#", address) for address in [*page.loaded, *ours])
        assert not [a for _, a in page.tags if any(n == "style" or n.startswith("on") for n in a)]
        _, policy = await header(w, path, "Content-Security-Policy")
        assert policy.startswith("default-src 'none';")
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert (await header(w, path, "X-Content-Type-Options"))[1] == "nosniff"
        assert (await header(w, path, "Cache-Control"))[1] == "no-store"


@pytest.mark.parametrize("path", PAGES)
async def test_a_page_can_be_used_without_eyes_and_mouse(tmp_path: Path, path: str) -> None:
    """One main, one h1, a skip link, a title, named tables and fields, ids that are unique."""
    async with world(tmp_path, managers=TWO_ZONES) as w:
        await w.until_states(cataloged=5)
        page = await visit(w, path)
        kinds = [tag for tag, _ in page.tags]
        assert (kinds.count("main"), kinds.count("h1"), kinds.count("title")) == (1, 1, 1)
        assert kinds.count("table") == kinds.count("caption")
        assert page.links[0] == "#main"
        ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
        assert len(ids) == len(set(ids))
        labelled = {attributes.get("for") for tag, attributes in page.tags if tag == "label"}
        for tag, attributes in page.tags:
            if tag in {"input", "select"} and "hidden" not in {*attributes, *attributes.values()}:
                assert attributes["id"] in labelled
            if tag == "th":
                assert attributes["scope"] in {"col", "row"}
        assert ("html", {"lang": "en"}) in page.tags


async def test_the_configuration_page_shows_what_changed(tmp_path: Path) -> None:
    """The revision in force, its text, and its difference to the one before."""
    async with world(tmp_path) as w:
        await w.until_states(cataloged=3)
        before = (await w.get("/api/status"))["configuration"]["revision"]
        first = await visit(w, "/configuration")
        assert "What it changed" not in first.text
        w.write_config(template(machine_type="e2-medium"), manager(minimum=4))
        await w.until_states(cataloged=4)
        page = await visit(w, "/configuration")
        assert f"Before {before}" in page.text
        assert '- machine_type: "e2-small" + machine_type: "e2-medium"' in page.text
        assert re.search(r"-managers .*minimum_size: 3 } \+managers .*minimum_size: 4 }", page.text)
        removed = [tag for tag, _ in page.tags if tag == "del"]
        assert len(removed) == 2
        status = (await w.get("/api/status"))["configuration"]
        assert status["previous_revision"] == before


async def test_jobs_and_messages_are_shown(tmp_path: Path) -> None:
    """Outcome, duration, next run; the queue, and what was set aside with its reason."""
    async with world(tmp_path) as w:
        await w.until_states(cataloged=3)
        jobs = await visit(w, "/jobs")
        assert "17 jobs" in jobs.text
        assert re.search(r"catalog-instances ok \S+.*? <1 ms", jobs.text)
        await w.call(
            "POST",
            f"/v1/projects/local-project/topics/{w.settings.pubsub.topic}:publish",
            {"messages": [{"data": "d2hhdD8="}]},
        )

        async def aside() -> bool:
            return "1 set aside, the newest first" in (await visit(w, "/messages")).text

        await w.until(aside)
        assert "what?" in (await visit(w, "/messages")).text


async def test_events_are_filtered_and_paged(tmp_path: Path) -> None:
    """By kind and cause; Older leads on, with the filter kept."""
    async with world(tmp_path, managers=manager(minimum=30)) as w:
        await w.until_states(cataloged=30)
        page = await visit(w, "/events?kind=machine")
        (older,) = [link for link in page.links if "before=" in link]
        assert "kind=machine" in older
        assert "Its group lists it" in (await visit(w, older)).text
        jobs = await visit(w, "/events?cause=job+catalog-instances")
        assert "→ cataloged" in jobs.text
        assert "job fetch-instances" not in jobs.text
        assert "No such event" in (await visit(w, "/events?name=nobody")).text
        # A revision of the configuration is cut: whole, it pushes the other columns off the page.
        imported = await visit(w, "/events?kind=configuration")
        assert "A new revision is in force." in imported.text
        assert not re.search(r"[0-9a-f]{13}", imported.text)


@pytest.mark.parametrize(
    ("path", "status", "words"),
    [
        ("/nowhere", 404, "There is no page /nowhere"),
        ("/machines/linnux", 404, "linux"),
        ("/explain?name=zzz", 404, "no machine, group or template called 'zzz'"),
        ("/machines?state=nowhere", 400, "`state`"),
        ("/machines?page=0", 400, "`page`"),
        ("/events?before=yesterday", 400, "`before`"),
        ("/explain", 400, "`name`"),
    ],
)
async def test_what_does_not_work_says_why(
    tmp_path: Path, path: str, status: int, words: str
) -> None:
    """With the way back: every such page is a page of this daemon."""
    async with world(tmp_path) as w:
        await w.until_states(cataloged=3)
        page = await visit(w, path)
        assert page.status == status
        assert words in page.text
        assert "/machines" in page.links


async def test_before_the_store_is_loaded_the_page_says_what_is_missing(tmp_path: Path) -> None:
    """And it goes on to the overview by itself afterwards."""
    async with world(tmp_path, start=False) as w:
        await w.inject("datastore.*", status=503, times=None)
        await w.start_daemon()
        await w.pass_time(20)
        page = await visit(w, "/")
        assert page.status == 503
        assert "The daemon is starting" in page.text
        assert "not yet store" in page.text
        assert "injected fault" in page.text
        await w.clear_faults()
        await w.until_states(cataloged=3)
        assert (await visit(w, "/")).status == 200


async def test_a_first_run_without_configuration_says_what_comes_next(tmp_path: Path) -> None:
    """An empty fleet is no blank page."""
    async with world(tmp_path, start=False) as w:
        (w.config_dir / "templates.cfg").unlink()
        await w.start_daemon()
        await w.until(w.is_loaded)
        assert "No groups yet" in (await visit(w, "/")).text
        assert "No machines yet" in (await visit(w, "/machines")).text
        assert "No configuration has been imported yet" in (await visit(w, "/configuration")).text


async def test_files_of_the_page_are_cached_for_ever_and_packed(tmp_path: Path) -> None:
    """Under the address that the page names; under their plain one they are asked for again."""
    async with world(tmp_path) as w:
        page = await visit(w, "/session")
        style = next(address for address in page.loaded if "style.css" in address)
        assert "immutable" in (await header(w, style, "Cache-Control"))[1]
        plain = style.partition("?")[0]
        assert await header(w, plain, "Cache-Control") == (200, "no-cache")
        _, tag = await header(w, plain, "ETag")
        assert (await header(w, plain, "ETag", **{"If-None-Match": tag}))[0] == 304
        packed = await header(w, style, "Content-Encoding", **{"Accept-Encoding": "gzip"})
        assert packed == (200, "gzip")
        as_it_is = await header(w, style, "Content-Encoding", **{"Accept-Encoding": "identity"})
        assert as_it_is == (200, "")
        assert (await header(w, "/static/../app.py", "ETag"))[0] == 404


async def test_a_configuration_written_by_an_older_release_is_shown(tmp_path: Path) -> None:
    """It knows neither when it came into force nor what was before it."""
    async with world(tmp_path) as w:
        await w.until_states(cataloged=3)
        assert w.daemon.context is not None
        fleet = w.daemon.context.fleet
        old = msgspec.structs.replace(
            fleet.configuration, imported=None, previous_revision="", diff=""
        )
        assert isinstance(fleet.get(CONFIGURATION_KEY), StoredConfiguration)
        fleet._pictures[StoredConfiguration.KIND][CONFIGURATION_KEY] = old
        for path in ("/", "/configuration"):
            page: Page = await visit(w, path)
            assert page.status == 200
