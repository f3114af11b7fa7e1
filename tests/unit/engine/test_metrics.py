"""Metrics as Prometheus text: what is counted, what is read, and what a fleet's story shows."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from gce_backend import __version__
from gce_backend.clients.compute.call_budget import QuotaGroup
from gce_backend.engine.job import Verdict
from gce_backend.engine.metrics import READINGS, UNKNOWN_KIND, Metrics
from gce_backend.settings.settings import DeletionSettings, Settings
from support.fleet_harness import OTHER_ZONE, ZONE, manager, template, world
from support.metrics_story import Story, tell
from support.scraped import PREFIX, Scraped, scrape, wrong_names

PLACE = {"template": "linux", "zone": ZONE}
OTHER_PLACE = {"template": "windows", "zone": OTHER_ZONE}


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Story:
    """What /metrics said at each turn of a fleet's story."""
    return tell(tmp_path_factory.mktemp("story"))


def read(metrics: Metrics) -> Scraped:
    """What a scraper reads."""
    return Scraped(metrics.render().decode())


def test_runs_are_counted_by_outcome() -> None:
    """A run that failed does not move the time of the last success."""
    metrics = Metrics()
    metrics.job_run("a", Verdict.DEGRADED, 0.2, 100.0, 0.5)
    metrics.job_run("a", Verdict.TIMEOUT, 30.0, 200.0, 2.0)
    found = read(metrics)
    assert found.of("job_runs_total", job_name="a") == {("degraded",): 1, ("timeout",): 1}
    assert found.sum("job_last_success_timestamp_seconds", job_name="a") == 100
    assert found.sum("job_duration_seconds_sum", job_name="a") == 30.2
    assert found.sum("job_lag_seconds_sum", job_name="a") == 2.5


def test_calls_are_counted_by_api_method_status_and_group() -> None:
    """A call without an answer has a status of its own; a repetition is counted besides."""
    metrics = Metrics()
    metrics.call("compute.instances.get", QuotaGroup.READ, 200, 0.1)
    metrics.call("datastore.projects.commit", None, None, 0.1)
    metrics.retry("datastore.projects.lookup")
    found = read(metrics)
    get = {"api": "compute", "method": "compute.instances.get"}
    commit = {"api": "datastore", "method": "datastore.projects.commit"}
    assert found.sum("calls_total", **get, status="200", group="read") == 1
    assert found.sum("calls_total", **commit, status="none", group="") == 1
    assert found.sum("call_duration_seconds_count", **get) == 1
    lookup = "datastore.projects.lookup"
    assert found.sum("call_retries_total", api="datastore", method=lookup) == 1


def test_what_is_expected_is_there_before_it_happens() -> None:
    """A counter that springs up at 1 is no rise for Prometheus: the first failure would be lost."""
    metrics = Metrics()
    metrics.expect(jobs=["a"], kinds=[UNKNOWN_KIND])
    found = read(metrics)
    assert found.of("job_runs_total", job_name="a", outcome="error") == {(): 0}
    assert found.of("messages_total", kind=UNKNOWN_KIND, outcome="set-aside") == {(): 0}


def test_a_clock_that_was_set_back_makes_no_negative_duration() -> None:
    """A histogram's sum never falls."""
    metrics = Metrics()
    metrics.cataloged("linux", -86_400.0)
    metrics.deleted("linux", -1.0)
    found = read(metrics)
    assert found.sum("machine_created_to_cataloged_seconds_sum") == 0
    assert found.sum("machine_reclaimed_to_deleted_seconds_sum") == 0


def test_a_reading_that_is_gone_is_not_shown_again() -> None:
    """A state that nothing is in any more has no series; its name is declared all the same."""
    metrics = Metrics()
    sample = (("linux", ZONE, "running"), 5)
    assert b'state="running"' in metrics.render({"machines": [sample]})
    assert b"# TYPE gce_backend_machines gauge" in metrics.render()
    assert b'state="running"' not in metrics.render()


def test_two_metrics_do_not_share_anything() -> None:
    """There is no global registry."""
    first, second = Metrics(), Metrics()
    first.message("LEASED", "stale")
    assert read(first).sum("messages_total") == 1
    assert read(second).sum("messages_total") == 0


def test_names_and_units_are_those_of_prometheus(story: Story) -> None:
    """Counters end with _total, distributions with a unit; no label takes Prometheus's own."""
    ours = {name: kind for name, kind in story.troubled.types.items() if name[:4] == "gce_"}
    labels = {
        label
        for name, names in story.troubled.labels().items()
        if not name.endswith("_bucket")
        for label in names
    }
    assert wrong_names(ours, labels) == []


@pytest.mark.parametrize(
    ("name", "kind", "label", "rule"),
    [
        ("x_runs", "counter", "a", "ends with _total"),
        ("x_total", "gauge", "a", "only a counter"),
        ("x_lag", "gauge", "a", "in seconds"),
        ("x_delay_ms", "histogram", "a", "in full"),
        ("x_size", "histogram", "a", "its unit"),
        ("x_total_runs", "gauge", "a", "come last"),
        ("x_count", "gauge", "a", "reserved"),
        ("x", "gauge", "job", "own label"),
    ],
)
def test_a_name_that_breaks_a_rule_is_found(name: str, kind: str, label: str, rule: str) -> None:
    """The check above can fail."""
    assert any(rule in problem for problem in wrong_names({name: kind}, [label]))


def test_every_metric_has_its_words(story: Story) -> None:
    """A scrape tells for each metric what it means, and shows each at the end of the story."""
    text = Metrics().render().decode()
    told = dict(re.findall(r"^# HELP (\w+) (.*)$", text, re.MULTILINE))
    assert told.keys() == story.troubled.types.keys()
    assert all(words.endswith(".") for name, words in told.items() if name[:4] == "gce_")
    shown = {name.removesuffix("_bucket") for name, _, _ in story.troubled.samples}
    assert not {name for name in told if name not in shown}


async def test_metrics_are_served_before_the_entities_are_loaded(tmp_path: Path) -> None:
    """While Datastore fails the daemon is not ready, and says so where an alert looks."""
    async with world(tmp_path, start=False) as w:
        await w.inject("datastore.projects.runQuery", status=503, times=None)
        await w.start_daemon()
        await w.pass_time(30.0)
        found = await scrape(w)
        assert found.of("ready")["store",] == 0
        assert found.sum("calls_total", method="datastore.projects.runQuery", status="503") > 0
        assert found.sum("call_retries_total", method="datastore.projects.runQuery") > 0
        assert found.of("machines") == {}
        await w.clear_faults()
        await w.until_states(cataloged=3)
        assert set((await scrape(w)).of("ready").values()) == {1}


def test_a_healthy_fleet(story: Story) -> None:
    """Machines, sizes, configuration and budget are what they are, and nothing is wrong."""
    found = story.healthy
    assert found.of("machines", **PLACE) == {("cataloged",): 3}
    assert found.of("machines", **OTHER_PLACE) == {("cataloged",): 2}
    assert found.sum("group_minimum_size", **PLACE) == 3
    assert found.of("group_maximum_size") == {("linux", ZONE): 8}
    assert found.of("group_target_size", **PLACE) == {("active",): 3}
    for name in (
        *("machines_lost", "conditions", "corrupt_entities", "deletions_held", "untracked"),
        *("config_held", "config_problems", "actuation_paused", "pause_since_timestamp_seconds"),
        *("queue_depth", "queue_working", "queue_oldest_message_age_seconds"),
        *("set_aside_messages", "job_consecutive_failures"),
        *("call_retries_total", "loop_lag_seconds_sum"),
    ):
        assert found.sum(name) == 0, name
    assert set(found.of("ready").values()) == {1}
    (info,) = found.of("config_info", config_set="services/gce-backend")
    assert re.fullmatch(r"[0-9a-f]{40}", info[0])
    assert found.of("build_info") == {(__version__,): 1}
    limits = found.of("call_budget_limit", project="local-project")
    left = found.of("call_budget_remaining", project="local-project")
    assert set(limits.values()) == {1400}
    assert all(0 < left[group] <= 1400 for group in limits)
    assert found.sum("process_start_time_seconds") == 0, "the library's own have no prefix"
    assert any(name == "process_start_time_seconds" for name, _, _ in found.samples)


def test_every_api_is_counted(story: Story) -> None:
    """Compute with its quota groups; the others have none."""
    calls = story.healthy
    apis = {labels["api"] for name, labels, _ in calls.samples if name.endswith("_calls_total")}
    assert apis == {"compute", "datastore", "pubsub", "machine_provider", "luci_config"}
    for name, labels, _ in calls.samples:
        if name == "gce_backend_calls_total":
            assert bool(labels["group"]) == (labels["api"] == "compute"), labels


def test_jobs_run_on_time_and_succeed(story: Story) -> None:
    """All 17 of them, each at least once a minute, none later than the pause between two runs."""
    found = story.healthy
    runs = found.of("job_runs_total", outcome="ok")
    assert len(runs) == 17
    assert min(runs.values()) >= 3
    assert sum(found.of("job_runs_total", outcome="error").values()) == 0
    late = found.of("job_lag_seconds_bucket", le="0.1")
    assert late == found.of("job_lag_seconds_count")
    assert len(found.of("job_last_success_timestamp_seconds")) == 17


def test_times_of_a_machines_life(story: Story) -> None:
    """From created to cataloged for each machine once; from reclaimed to deleted for the one."""
    before, after = story.healthy, story.served
    rise = "machine_created_to_cataloged_seconds_count"
    assert before.of(rise) == {("linux",): 3, ("windows",): 2}
    assert after.of(rise) == {("linux",): 4, ("windows",): 2}
    assert before.of("machine_reclaimed_to_deleted_seconds_count") == {}
    assert after.of("machine_reclaimed_to_deleted_seconds_count") == {("linux",): 1}
    for kind in ("LEASED", "RECLAIMED"):
        assert after.of("messages_total", kind=kind)["processed",] == 1


def test_what_is_wrong_is_shown(story: Story) -> None:
    """Each trouble of the story has its number, and what is well has stayed so."""
    found = story.troubled
    assert found.sum("config_held") == 1
    assert found.sum("machines_lost", **PLACE) == 1
    assert found.sum("machines_lost", **OTHER_PLACE) == 0
    assert found.of("machines", **PLACE) == {
        ("cataloged",): 2,
        ("lost",): 1,
        ("creating",): 1,
    }
    assert found.sum("group_minimum_size", **PLACE) == 4
    assert found.sum("untracked", kind="template") == 1
    assert found.sum("set_aside_messages") == 1
    assert found.sum("messages_total", kind=UNKNOWN_KIND, outcome="set-aside") == 1
    assert found.sum("actuation_paused") == 0, "only a part is paused"
    assert list(found.of("pause_since_timestamp_seconds")) == [("windows", OTHER_ZONE)]
    assert list(found.of("rollout_order_since_timestamp_seconds")) == [("paused", "windows")]
    assert {labels[1] for labels in found.of("conditions")} >= {
        *("StockOut", "Untracked", "HeldForApproval"),
    }
    retried = "compute.instanceGroupManagers.aggregatedList"
    assert found.sum("call_retries_total", method=retried) == 1
    assert found.sum("calls_total", method=retried, status="503") == 1
    assert found.sum("job_runs_total", job_name="import-config", outcome="degraded") > 0


async def test_the_time_from_created_to_cataloged_survives_a_restart(tmp_path: Path) -> None:
    """When a machine was first listed is stored; one cataloged before is not told again."""
    async with world(tmp_path) as w:
        await w.inject("machine_provider.catalog.add_machines", status=503, times=None)
        await w.until_states(running=3)
        await w.pass_time(300.0)
        await w.restart_daemon()
        await w.clear_faults()
        await w.until_states(cataloged=3)
        found = await scrape(w)
        assert found.sum("machine_created_to_cataloged_seconds_count") == 3
        assert found.sum("machine_created_to_cataloged_seconds_sum") > 3 * 300.0
        imported = found.sum("config_imported_timestamp_seconds")
        await w.restart_daemon()
        await w.until_states(cataloged=3)
        found = await scrape(w)
        assert found.sum("machine_created_to_cataloged_seconds_count") == 0
        assert found.sum("config_imported_timestamp_seconds") == imported


async def test_a_machine_that_comes_back_to_the_catalog_is_not_new(tmp_path: Path) -> None:
    """One that drained and is named again was cataloged long ago: that is no slow start."""
    cap = DeletionSettings(permitted_count=1, permitted_share=0.0)
    async with world(tmp_path, settings=Settings(deletion=cap)) as w:
        await w.until_states(cataloged=3)
        first = {machine["name"] for machine in await w.machines()}
        w.write_config(template(machine_type="e2-medium"), manager())

        async def has_left() -> bool:
            return not first & (await w.catalog()).keys()

        async def is_back() -> bool:
            return len(first & (await w.catalog()).keys()) == 2

        await w.until(has_left)
        rise = "machine_created_to_cataloged_seconds_count"
        assert (await scrape(w)).sum(rise) == 6
        assert (await scrape(w)).sum("deletions_held") == 2
        w.write_config(template(), manager())
        await w.until(is_back)
        await w.pass_time(30.0)
        every = {machine["name"] for machine in await w.machines()}
        assert len(every) == 7, "one was replaced"
        assert (await scrape(w)).sum(rise) == 7


async def test_a_look_costs_no_call(tmp_path: Path) -> None:
    """Neither Compute nor Datastore nor anybody else is asked because somebody scrapes."""
    async with world(tmp_path) as w:
        await w.until_states(cataloged=3)
        await w.pass_time(90.0)
        await w.reset_calls()
        for _ in range(20):
            await scrape(w)
        assert not await w.calls()


def test_every_reading_is_read(story: Story) -> None:
    """None is declared that nobody fills."""
    for reading in READINGS:
        series = [it for name, it, _ in story.troubled.samples if name == PREFIX + reading.name]
        assert {frozenset(labels) for labels in series} == {frozenset(reading.labels)}, reading.name
