"""`gce-backend setup`: what it makes, mends, checks, and says."""

from __future__ import annotations

import contextlib
import random
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner

from gce_backend.cli import main
from gce_backend.daemon.clients import Clients
from gce_backend.daemon.local import local_settings
from gce_backend.engine.metrics import Metrics
from gce_backend.fleet.picture import Change, Fleet
from gce_backend.fleet.store import Store
from gce_backend.localcloud.assembly import embedded_cloud
from gce_backend.localcloud.cloud import Cloud, CloudOptions
from gce_backend.localcloud.faults import Fault
from gce_backend.model.entities import (
    CONFIG_SETTINGS_KEY,
    CONFIGURATION_KEY,
    MACHINE_PROVIDER_KEY,
    StoredConfiguration,
)
from gce_backend.settings.settings import MachineProviderSettings, Settings
from gce_backend.setup.messaging import Done
from gce_backend.setup.permissions import COMPUTE, DATASTORE, SUBSCRIPTION
from gce_backend.setup.project import Addresses, set_up
from support.fleet_harness import template
from support.served_cloud import ACCOUNT as SERVED_ACCOUNT
from support.served_cloud import served_cloud
from support.simulation import VirtualClock

PROJECT = "local-project"
TOPIC = f"projects/{PROJECT}/topics/machine-provider"
DEAD = f"{TOPIC}-dead-letter"
PULL = f"projects/{PROJECT}/subscriptions/machine-provider"
ACCOUNT = "machine-provider@example.iam.gserviceaccount.com"
ADDRESSES = Addresses("services/gce", "config.luci.app", "https://mp.example.com")
ALLOWED = MachineProviderSettings(allowed_hosts=("mp.example.com",))
WRITES = ("create", "patch", "setIamPolicy", "commit", "delete")


class Site:
    """A cloud, and `setup` for it."""

    def __init__(self, cloud: Cloud, clients: Clients, settings: Settings) -> None:
        self.cloud = cloud
        self.pubsub = clients.pubsub(PROJECT)
        self.store = Store(clients.datastore(PROJECT))
        self.settings = settings
        self._clients = clients

    async def set_up(
        self,
        addresses: Addresses = ADDRESSES,
        publisher: str | None = ACCOUNT,
        *,
        dry_run: bool = False,
    ) -> list[Done]:
        """Runs it once."""
        steps = set_up(
            self.settings,
            project=PROJECT,
            store=self.store,
            pubsub=self.pubsub,
            resource_manager=self._clients.resource_manager(),
            addresses=addresses,
            publisher=publisher,
            rng=random.Random(1),
            dry_run=dry_run,
        )
        return [step async for step in steps]

    async def stored(self) -> Addresses:
        """The addresses in Datastore."""
        fleet = Fleet(self.store)
        await fleet.refresh([CONFIGURATION_KEY, CONFIG_SETTINGS_KEY, MACHINE_PROVIDER_KEY])
        return Addresses(
            fleet.configuration.config_set,
            fleet.config_settings.service_hostname,
            fleet.machine_provider.instance_url,
        )

    def writes(self) -> list[str]:
        """The calls so far that change something, of Pub/Sub and Datastore."""
        return [name for name in self.cloud.calls if name.rpartition(".")[2] in WRITES]

    async def publishers(self, topic: str = TOPIC) -> list[dict[str, Any]]:
        """A topic's bindings."""
        found: list[dict[str, Any]] = (await self.pubsub.get_iam_policy(topic))["bindings"]
        return found


@contextlib.asynccontextmanager
async def site(
    options: CloudOptions | None = None, settings: Settings | None = None
) -> AsyncIterator[Site]:
    """An empty cloud whose project is to be set up."""
    clock = VirtualClock()
    cloud = embedded_cloud(None, clock, options or CloudOptions().instant())
    url = await cloud.start()
    given = settings or Settings(machine_provider=ALLOWED)
    endpoints = local_settings(given, url, PROJECT, Path()).endpoints
    used = msgspec.structs.replace(given, project=PROJECT, endpoints=endpoints)
    clients = Clients(used, clock, random.Random(0), Metrics())
    try:
        yield Site(cloud, clients, used)
    finally:
        await clients.close()
        await cloud.close()


def outcomes(steps: list[Done]) -> dict[str, str]:
    """Outcomes by what was looked at."""
    return {step.what: step.outcome for step in steps}


def remedy(steps: list[Done], words: str) -> str:
    """The remedy of the one step that is about these words."""
    (found,) = [step for step in steps if words in step.what]
    return found.remedy


async def test_an_empty_project_gets_everything_that_the_daemon_needs() -> None:
    """Topics, subscriptions that never expire, the publisher, the three entities."""
    async with site() as s:
        steps = await s.set_up()
        assert all(step.ok for step in steps)
        assert {step.outcome for step in steps} == {"made", "changed", "present", "by hand"}
        found = await s.pubsub.get(PULL)
        assert (found["topic"], found["expirationPolicy"]) == (TOPIC, {})
        assert found["ackDeadlineSeconds"] == s.settings.pubsub.ack_deadline_seconds
        assert found["deadLetterPolicy"]["deadLetterTopic"] == DEAD
        dead = await s.pubsub.get(f"{PULL}-dead-letter")
        assert (dead["topic"], dead["expirationPolicy"]) == (DEAD, {})
        binding = {"role": "roles/pubsub.publisher", "members": [f"serviceAccount:{ACCOUNT}"]}
        assert await s.publishers() == [binding]
        assert await s.stored() == ADDRESSES


async def test_a_second_run_changes_nothing() -> None:
    """All is present, no call writes, and nothing that was given before need be given again."""
    async with site() as s:
        await s.set_up()
        s.cloud.calls.clear()
        again = await s.set_up()
        assert set(outcomes(again).values()) == {"present", "by hand"}
        assert s.writes() == []
        bare = await s.set_up(Addresses(), publisher=None)
        assert set(outcomes(bare).values()) == {"present", "by hand"}
        assert s.writes() == []


async def test_a_dry_run_makes_nothing_and_says_what_it_would_make() -> None:
    """On an empty project, and where something is to be mended."""
    async with site() as s:
        steps = await s.set_up(dry_run=True)
        assert s.writes() == []
        found = outcomes(steps)
        assert [found[name] for name in (TOPIC, DEAD, PULL)] == ["would make"] * 3
        assert found[f"{ACCOUNT} may publish to {TOPIC}"] == "would change"
        assert found["Configuration.config_set = services/gce"] == "would change"
        assert found[f"permissions of this account on {PULL}"] == "unknown"
        assert await s.stored() == Addresses("", "", "")
        await s.set_up()
        await s.pubsub.patch_subscription(PULL, {"expirationPolicy": {"ttl": "2678400s"}})
        s.cloud.calls.clear()
        found = outcomes(await s.set_up(dry_run=True))
        assert found[f"{PULL}: expirationPolicy"] == "would change"
        assert s.writes() == []


async def test_a_subscription_made_otherwise_is_mended() -> None:
    """One that expires, with another deadline and no dead letters, as others' tools make them."""
    async with site() as s:
        await s.pubsub.create_topic(TOPIC)
        month = {"expirationPolicy": {"ttl": "2678400s"}, "ackDeadlineSeconds": 10}
        await s.pubsub.create_subscription(PULL, TOPIC, month)
        steps = await s.set_up()
        what = f"{PULL}: expirationPolicy, ackDeadlineSeconds, deadLetterPolicy"
        assert outcomes(steps)[what] == "changed"
        found = await s.pubsub.get(PULL)
        assert not found["expirationPolicy"].get("ttl")
        assert found["ackDeadlineSeconds"] == s.settings.pubsub.ack_deadline_seconds
        assert found["deadLetterPolicy"]["deadLetterTopic"] == DEAD


async def test_an_operators_own_dead_letter_topic_is_left_alone() -> None:
    """It is a choice, not a mistake."""
    async with site() as s:
        await s.set_up()
        topic = f"projects/{PROJECT}/topics/own"
        await s.pubsub.create_topic(topic)
        own = {"deadLetterTopic": topic, "maxDeliveryAttempts": 7}
        await s.pubsub.patch_subscription(PULL, {"deadLetterPolicy": own})
        assert outcomes(await s.set_up())[PULL] == "present"
        assert (await s.pubsub.get(PULL))["deadLetterPolicy"] == own


async def test_a_subscription_of_another_topic_is_not_touched() -> None:
    """Its messages may be somebody's: the remedy is the operator's to choose."""
    async with site() as s:
        other = f"projects/{PROJECT}/topics/other"
        await s.pubsub.create_topic(other)
        await s.pubsub.create_subscription(PULL, other, {})
        steps = await s.set_up()
        assert outcomes(steps)[PULL] == "wrong"
        assert other in next(step.remedy for step in steps if step.what == PULL)
        assert (await s.pubsub.get(PULL))["topic"] == other


async def test_other_publishers_are_kept() -> None:
    """The policy is added to, not replaced."""
    async with site() as s:
        await s.pubsub.create_topic(TOPIC)
        other = {"role": "roles/pubsub.publisher", "members": ["user:other@example.com"]}
        await s.pubsub.set_iam_policy(TOPIC, {"bindings": [other]})
        await s.set_up()
        assert other in await s.publishers()
        assert len(await s.publishers()) == 2


async def test_without_a_publisher_setup_says_who_is_missing() -> None:
    """Not an error: a role may be inherited from the project."""
    async with site() as s:
        steps = await s.set_up(publisher=None)
        assert "--machine-provider-account" in remedy(steps, "Machine Provider may publish")
        assert all(step.ok for step in steps)


async def test_missing_permissions_are_named_each_with_the_remedy() -> None:
    """Of the project and of the subscription; what is there is made all the same."""
    denied = (
        "compute.instanceGroupManagers.update",
        "datastore.entities.update",
        "pubsub.subscriptions.consume",
    )
    options = msgspec.structs.replace(CloudOptions().instant(), denied_permissions=denied)
    async with site(options) as s:
        steps = await s.set_up()
        missing = [step for step in steps if not step.ok]
        assert {step.remedy for step in missing} == {f"grant {name}" for name in denied}
        assert {step.outcome for step in missing} == {"missing"}
        assert outcomes(steps)[PULL] == "made"


async def test_the_projects_of_the_stored_configuration_are_checked_too() -> None:
    """Templates may live in other projects: each needs the compute permissions."""
    async with site() as s:
        await s.set_up()
        texts = template("one", project="first-project") + template("two", project="second-project")

        def stored(old: StoredConfiguration | None) -> StoredConfiguration:
            return msgspec.structs.replace(old or StoredConfiguration(), template_config=texts)

        await Fleet(s.store).change([Change(CONFIGURATION_KEY, stored)])
        checked = [step.what for step in await s.set_up() if step.what.startswith("compute")]
        assert [what.rpartition(" ")[2] for what in checked] == [
            "first-project",
            PROJECT,
            "second-project",
        ]


async def test_line_14_an_address_that_the_daemon_would_refuse_is_not_stored() -> None:
    """A token goes to allowed hosts only; the answer names the setting that would allow it."""
    async with site() as s:
        bad = ADDRESSES._replace(machine_provider="https://mp.example.org")
        steps = await s.set_up(bad)
        assert "machine_provider.allowed_hosts" in remedy(steps, "MachineProviderConfiguration")
        assert await s.stored() == Addresses("", "", "")
        steps = await s.set_up(ADDRESSES._replace(config_service="http://config.luci.app"))
        assert "https" in remedy(steps, "ConfigSettings")


async def test_addresses_that_nobody_gave_are_missing() -> None:
    """Each with the option that gives it; a directory needs neither set nor service."""
    async with site() as s:
        steps = await s.set_up(Addresses())
        lacking = {step.what: step.remedy for step in steps if not step.ok}
        assert {remedy.rpartition(" ")[2] for remedy in lacking.values()} == {
            "--config-set",
            "--config-service",
            "--machine-provider",
        }
    directory = msgspec.structs.replace(Settings().config, source="directory", directory=Path())
    async with site(settings=Settings(config=directory, machine_provider=ALLOWED)) as s:
        lacking = {step.what: step.remedy for step in await s.set_up(Addresses()) if not step.ok}
        assert list(lacking) == ["MachineProviderConfiguration.instance_url"]


@pytest.mark.parametrize(
    "method",
    [
        "pubsub.projects.topics.create",
        "pubsub.projects.subscriptions.create",
        "pubsub.projects.topics.setIamPolicy",
        "pubsub.projects.subscriptions.testIamPermissions",
        "cloudresourcemanager.projects.testIamPermissions",
        "datastore.projects.lookup",
        "datastore.projects.commit",
    ],
)
async def test_a_step_that_fails_says_so_and_the_others_go_on(method: str) -> None:
    """403 for one method: its steps fail, setup comes to its end, and a second run mends it."""
    async with site() as s:
        fault = Fault(method=method, status=403, reason="PERMISSION_DENIED", times=None)
        s.cloud.faults.add(fault)
        steps = await s.set_up()
        assert fault.fired > 0
        lacking = {step.outcome for step in steps if not step.ok}
        assert {"failed"} <= lacking <= {"failed", "missing"}
        assert sum(step.ok for step in steps) >= 5
        s.cloud.faults.clear()
        assert all(step.ok for step in await s.set_up())
        assert await s.stored() == ADDRESSES


async def test_pubsubs_own_agent_is_asked_for_until_it_may_publish() -> None:
    """Setup says what to grant to whom, and stops when it is granted."""
    async with site() as s:
        words = f"agent may publish to {DEAD}"
        text = remedy(await s.set_up(), words)
        assert "gcp-sa-pubsub.iam.gserviceaccount.com" in text
        assert "roles/pubsub.subscriber" in text
        agent = "serviceAccount:service-123456@gcp-sa-pubsub.iam.gserviceaccount.com"
        for name, role in ((DEAD, "publisher"), (PULL, "subscriber")):
            binding = {"role": f"roles/pubsub.{role}", "members": [agent]}
            await s.pubsub.set_iam_policy(name, {"bindings": [binding]})
        assert remedy(await s.set_up(), words) == ""


def test_the_permissions_are_least_privilege() -> None:
    """Nothing that deletes a VM directly, or acts for its account; few enough for one call."""
    everything = {*COMPUTE, *DATASTORE, *SUBSCRIPTION}
    assert "compute.instanceGroupManagers.update" in everything
    assert not everything & {"compute.instances.delete", "iam.serviceAccounts.actAs"}
    assert not any(name.endswith(("setIamPolicy", ".*")) for name in everything)
    assert len(COMPUTE) <= 100
    assert list(COMPUTE) == sorted(set(COMPUTE))


@pytest.mark.parametrize("role", ["daemon", "machine-provider"])
def test_without_credentials_setup_says_so_once_and_what_to_do(role: str) -> None:
    """And whose it looked for. Nothing is asked of Google."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        nowhere = f"http://127.0.0.1:{server.getsockname()[1]}"
    variables = {"GCE_BACKEND_PROJECT": PROJECT, "GCE_BACKEND_ENDPOINTS__METADATA": nowhere}
    done = CliRunner().invoke(main, ["setup", "--dry-run", "--role", role], env=variables)
    assert done.exit_code == 1
    first, second = done.output.splitlines()
    assert first == f"project {PROJECT}, as metadata server at {nowhere}"
    assert second.startswith("Error: auth.token: no answer: the token server cannot be reached (")
    assert second.endswith("log in with `gcloud auth application-default login`")


def test_the_command_prints_what_it_did_and_what_is_missing() -> None:
    """Exit code 1 while something is missing, 0 when nothing is."""
    with served_cloud() as served:

        def run(*arguments: str) -> tuple[int, str]:
            allowed = {"GCE_BACKEND_MACHINE_PROVIDER__ALLOWED_HOSTS": "mp.example.com"}
            done = CliRunner().invoke(
                main, ["setup", *arguments], env={**served.environment, **allowed}
            )
            return done.exit_code, done.output

        code, text = run("--dry-run")
        assert code == 1
        assert f"would make    {TOPIC}\n" in text
        assert f"project {PROJECT}, as {SERVED_ACCOUNT} (metadata server at " in text
        code, text = run("--machine-provider-account", ACCOUNT)
        assert code == 1
        assert f"made          {TOPIC}\n" in text
        assert "run setup with --config-set" in text
        assert "missing: 3 of 15" in text
        given = ("--config-set", "services/gce", "--config-service", "config.luci.app")
        code, text = run(*given, "--machine-provider", "https://mp.example.com", "--dry-run")
        assert (code, text.splitlines()[-1]) == (0, "nothing was made: this was a dry run")
        code, text = run(*given, "--machine-provider", "https://mp.example.com")
        assert (code, text.splitlines()[-1]) == (0, "nothing is missing")
        assert f"present       {TOPIC}\n" in text
