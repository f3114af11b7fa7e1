"""`gce-backend doctor`: each failure is a row with its remedy, and nothing is ever changed."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner, Result

from gce_backend.cli import main
from gce_backend.daemon.local import CONFIG_SET
from gce_backend.localcloud.cloud import CloudOptions
from gce_backend.localcloud.faults import Fault
from gce_backend.setup.permissions import LOOKS
from support.fleet_harness import OTHER_ZONE, ZONE, manager, template
from support.served_cloud import PROJECT, ServedCloud, served_cloud

READ_ONLY = {
    "cloudresourcemanager.projects.testIamPermissions",
    "compute.images.get",
    "compute.instanceTemplates.list",
    "compute.machineTypes.get",
    "compute.networks.get",
    "datastore.projects.lookup",
    "machine_provider.catalog.get",
    "luci_config.Configs.GetConfig",
    "metadata.instance.service-accounts.token",
    "metadata.project.project-id",
    "pubsub.projects.subscriptions.get",
    "pubsub.projects.subscriptions.getIamPolicy",
    "pubsub.projects.subscriptions.testIamPermissions",
    "pubsub.projects.topics.get",
    "pubsub.projects.topics.getIamPolicy",
}
"""All that a healthy examination calls."""


class Ward:
    """A cloud that `setup` has prepared, and `doctor` for it."""

    def __init__(self, served: ServedCloud, config: Path) -> None:
        self.served = served
        self.config = config

    def run(self, *arguments: str, **environment: str) -> Result:
        """Runs a command against the cloud."""
        variables = {**self.served.environment, "GCE_BACKEND_HTTP__PORT": "1", **environment}
        return CliRunner().invoke(main, list(arguments), env=variables)

    def write(self, templates: str, managers: str) -> None:
        """Replaces the configuration."""
        (self.config / "templates.cfg").write_text(templates)
        (self.config / "managers.cfg").write_text(managers)

    def inject(self, **fields: Any) -> Fault:
        """Injects a fault that lasts."""
        fault = Fault(times=None, **fields)
        self.served.cloud.faults.add(fault)
        return fault

    def examine(self, *arguments: str, **environment: str) -> tuple[int, dict[str, dict[str, Any]]]:
        """The exit code and the rows, by what was checked."""
        done = self.run("doctor", "--json", *arguments, **environment)
        document = msgspec.json.decode(done.stdout)
        assert document["ok"] == (done.exit_code == 0)
        return done.exit_code, {row["check"]: row for row in document["checks"]}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ward]:
    """One cloud for all tests of this module."""
    config = tmp_path_factory.mktemp("config")
    options = msgspec.structs.replace(CloudOptions().instant(), config_dir=config)
    with served_cloud(options) as served:
        made = Ward(served, config)
        addresses = ("--config-service", served.url, "--machine-provider", served.url)
        assert made.run("setup", "--config-set", CONFIG_SET, *addresses).exit_code == 0
        yield made


@pytest.fixture
def ward(place: Ward) -> Ward:
    """The cloud without faults, and with a configuration of one template."""
    place.served.cloud.faults.clear()
    place.write(template("one"), manager("one"))
    return place


def failed(rows: dict[str, dict[str, Any]]) -> set[str]:
    """What failed."""
    return {name for name, row in rows.items() if row["verdict"] == "failed"}


def row(rows: dict[str, dict[str, Any]], words: str) -> dict[str, Any]:
    """The one row about these words."""
    (found,) = [row for name, row in rows.items() if words in name]
    return found


def test_a_healthy_project_has_no_failure_and_no_call_changes_anything(ward: Ward) -> None:
    """Exit code 0; what was called is on the list of what only reads, and all of it was called."""
    ward.served.cloud.calls.clear()
    code, rows = ward.examine()
    assert (code, failed(rows)) == (0, set())
    called = {name for name in ward.served.cloud.calls if not name.startswith("config.")}
    assert called == READ_ONLY
    assert row(rows, "configuration")["seen"].endswith("1 template, 1 manager, at least 3 machines")
    assert row(rows, "what templates name")["verdict"] == "ok"
    assert row(rows, "daemon")["verdict"] == "skipped"


def test_the_role_for_looking_allows_what_it_asks_of_pubsub() -> None:
    """Each method but testIamPermissions, which everybody may call, has its permission there."""
    asked = {name.replace(".projects", "") for name in READ_ONLY if name.startswith("pubsub.")}
    assert {name for name in asked if not name.endswith("testIamPermissions")} == set(LOOKS)


def test_piped_it_prints_a_line_for_each_row_and_a_count(ward: Ward) -> None:
    """Lines that can be searched, without escape codes; the exit code is that of the failures."""
    done = ward.run("doctor")
    assert done.exit_code == 0
    assert "\x1b" not in done.stdout
    assert f"ok       Compute Engine in project {PROJECT}: answers\n" in done.stdout
    assert done.stdout.splitlines()[-1].endswith("2 warnings, 2 skipped")
    ward.inject(method="machine_provider.*", status=503)
    done = ward.run("doctor")
    assert done.exit_code == 1
    assert "failed   Machine Provider: " in done.stdout
    assert "1 failed" in done.stdout.splitlines()[-1]


def test_without_a_project_there_is_one_row_with_its_remedy(ward: Ward) -> None:
    """Nothing can be looked at; programs get their JSON all the same."""
    fault = ward.inject(method="metadata.project.project-id", status=503)
    code, rows = ward.examine()
    assert fault.fired > 0
    assert (code, failed(rows), len(rows)) == (1, {"project"}, 1)
    assert "`project` in the settings" in rows["project"]["remedy"]


def test_without_a_token_all_that_needs_one_is_skipped(ward: Ward) -> None:
    """One failure with its remedy, and no row that repeats it."""
    fault = ward.inject(method="metadata.instance.service-accounts.token", status=503)
    code, rows = ward.examine(GCE_BACKEND_PROJECT=PROJECT)
    assert fault.fired > 0
    assert (code, failed(rows)) == (1, {"credentials"})
    assert "endpoints.metadata" in rows["credentials"]["remedy"]
    assert {row["verdict"] for row in rows.values()} == {"failed", "skipped"}


@pytest.mark.parametrize(
    ("method", "words", "service"),
    [
        ("compute.*", f"Compute Engine in project {PROJECT}", "compute"),
        ("datastore.*", f"Datastore of project {PROJECT}", "datastore"),
        ("pubsub.*", f"projects/{PROJECT}/topics/machine-provider", "pubsub"),
        ("cloudresourcemanager.*", "compute permissions", "cloudresourcemanager"),
    ],
)
def test_an_api_that_is_not_enabled_is_named_with_the_command_that_enables_it(
    ward: Ward, method: str, words: str, service: str
) -> None:
    """As Google says it: 403 and the text that it has not been used before."""
    text = f"{service} API has not been used in project 1 before or it is disabled."
    fault = ward.inject(method=method, status=403, reason="PERMISSION_DENIED", message=text)
    code, rows = ward.examine()
    assert fault.fired > 0
    assert code == 1
    found = next(row for name, row in rows.items() if name.startswith(words))
    assert found["remedy"] == f"gcloud services enable {service}.googleapis.com --project {PROJECT}"


def test_missing_permissions_are_named(tmp_path: Path) -> None:
    """Each with what to grant."""
    denied = ("compute.instanceGroupManagers.update", "datastore.entities.update")
    (tmp_path / "templates.cfg").write_text(template("one"))
    (tmp_path / "managers.cfg").write_text(manager("one"))
    options = msgspec.structs.replace(
        CloudOptions().instant(), config_dir=tmp_path, denied_permissions=denied
    )
    with served_cloud(options) as served:
        ward = Ward(served, tmp_path)
        addresses = ("--config-service", served.url, "--machine-provider", served.url)
        ward.run("setup", "--config-set", CONFIG_SET, *addresses)
        code, rows = ward.examine()
        assert code == 1
        found = {row["remedy"] for row in rows.values() if row["verdict"] == "failed"}
        assert found == {f"grant {name}" for name in denied}


def test_a_project_that_nobody_set_up_gets_one_remedy_after_the_other(tmp_path: Path) -> None:
    """Topic, subscription and addresses: each says what makes it."""
    with served_cloud() as served:
        code, rows = Ward(served, tmp_path).examine()
        assert code == 1
        assert (
            row(rows, "subscriptions/machine-provider-dead")["remedy"] == "run `gce-backend setup`"
        )
        assert "--config-set" in row(rows, "config_set")["remedy"]
        assert "gce-backend configure" in row(rows, "configuration from")["seen"]
        assert row(rows, "what templates name")["verdict"] == "skipped"
        assert not [name for name in served.cloud.calls if name.endswith(("commit", "create"))]


def test_an_invalid_configuration_is_shown_problem_by_problem(ward: Ward) -> None:
    """With file, line and field, as `validate` does."""
    ward.write(template("one", machine_type=""), manager("one", zone="nowhere"))
    done = ward.run("doctor")
    assert done.exit_code == 1
    assert "templates.cfg" in done.stdout
    assert "managers.cfg" in done.stdout
    assert "gce-backend validate" in done.stdout


def test_a_configuration_that_names_what_is_not_there_fails(ward: Ward) -> None:
    """A machine type that the zone has not, an image that the project has not; each by name."""
    ward.write(
        template("one", image_name="missing-image") + template("two", machine_type="z9-none-1"),
        manager("one") + manager("two"),
    )
    code, rows = ward.examine()
    assert code == 1
    assert failed(rows) == {
        f"image missing-image of {PROJECT}",
        f"machine type z9-none-1 in {ZONE} of {PROJECT}",
    }
    assert all("templates.cfg" in rows[name]["remedy"] for name in failed(rows))


def test_networks_disk_types_and_accelerators_are_looked_up_where_they_are_named(
    ward: Ward,
) -> None:
    """In the project and the region of a link, and in each zone of a manager."""
    ward.write(
        template("one", network_url="missing-lab")
        + template("two", network_url="projects/host-vpc/regions/us-central1/subnetworks/missing-s")
        + template("gpu", guest_accelerators="missing-gpu:1", local_ssds=1, disk_type="pd-ssd"),
        manager("one") + manager("two") + manager("gpu"),
    )
    ward.served.cloud.calls.clear()
    code, rows = ward.examine()
    assert (code, failed(rows)) == (
        1,
        {
            f"network missing-lab of {PROJECT}",
            "subnetwork missing-s in us-central1 of host-vpc",
            f"accelerator missing-gpu in {ZONE} of {PROJECT}",
        },
    )
    assert ward.served.cloud.calls["compute.diskTypes.get"] == 2


def test_reservations_and_resource_policies_are_looked_up_before_they_are_needed(
    ward: Ward, tmp_path: Path
) -> None:
    """By `doctor` and by `plan`: no VM is made without its reservation or with a missing policy."""
    fields = {"reservation": "missing-r", "resource_policies": "missing-p"}
    (tmp_path / "templates.cfg").write_text(template("one", **fields))
    (tmp_path / "managers.cfg").write_text(manager("one"))
    missing = {
        f"reservation missing-r in {ZONE} of {PROJECT}",
        f"resource policy missing-p in us-central1 of {PROJECT}",
    }
    code, rows = ward.examine("--config", str(tmp_path))
    assert (code, failed(rows)) == (1, missing)
    planned = ward.run("plan", "--config", str(tmp_path)).output
    assert {what for what in missing if f"there is no {what}: the daemon" in planned} == missing


def test_what_may_not_be_seen_says_so_and_is_no_failure(ward: Ward, tmp_path: Path) -> None:
    """The daemon needs no look at networks: whoever may not make one is told, and goes on."""
    ward.inject(method="compute.networks.get", status=403, reason="forbidden")
    code, rows = ward.examine()
    assert (code, failed(rows)) == (0, set())
    network = row(rows, "network default")
    assert network["verdict"] == "skipped"
    assert "compute.networks.get" in network["remedy"]
    (tmp_path / "templates.cfg").write_text(template())
    (tmp_path / "managers.cfg").write_text(manager())
    planned = ward.run("plan", "--config", str(tmp_path))
    assert "cannot be seen without the permission compute.networks.get" in planned.stdout


def test_a_configuration_is_checked_before_it_is_submitted(ward: Ward, tmp_path: Path) -> None:
    """In place of the one that is served; `plan` names what is missing, too."""
    (tmp_path / "templates.cfg").write_text(template("one", image_name="", image_family="missing"))
    (tmp_path / "managers.cfg").write_text(manager("one", zone=OTHER_ZONE))
    missing = f"image family missing of {PROJECT}"
    code, rows = ward.examine("--config", str(tmp_path))
    assert (code, failed(rows)) == (1, {missing})
    assert "1 template" in row(rows, f"configuration from {tmp_path}")["seen"]
    assert not failed(ward.examine()[1])
    planned = ward.run("plan", "--config", str(tmp_path))
    assert f"there is no {missing}: the daemon cannot make what needs it" in planned.stdout


def test_a_check_that_hangs_is_cut_off_and_the_others_are_told(ward: Ward) -> None:
    """The Machine Provider holds its answer; one row fails, with the option that waits longer."""
    fault = ward.inject(method="machine_provider.catalog.get", kind="latency", seconds=3600.0)
    for seconds in ("0.5", "5", "50"):  # what a slow machine needs for the other checks
        code, rows = ward.examine("--timeout", seconds)
        if failed(rows) == {"Machine Provider"}:
            break
    assert fault.fired > 0
    assert (code, failed(rows)) == (1, {"Machine Provider"})
    assert "--timeout" in rows["Machine Provider"]["remedy"]


def test_several_failures_are_all_told(ward: Ward) -> None:
    """Broker down, subscription's rights refused, and the configuration not served."""
    ward.inject(method="machine_provider.*", status=500)
    method = "pubsub.projects.subscriptions.testIamPermissions"
    ward.inject(method=method, status=403, reason="PERMISSION_DENIED")
    ward.inject(method="luci_config.*", status=404)
    code, rows = ward.examine()
    assert code == 1
    assert len(failed(rows)) == 3


def test_an_endpoint_without_its_version_says_so(ward: Ward) -> None:
    """Nothing is served where `/v1` is missing; the setting is named."""
    root = ward.served.url
    code, rows = ward.examine(GCE_BACKEND_ENDPOINTS__RESOURCE_MANAGER=root)
    assert code == 1
    assert "endpoints.resource_manager" in row(rows, "compute permissions")["seen"]


def test_a_running_daemon_that_is_not_ready_is_a_warning(
    ward: Ward, answering: Callable[[bytes], int]
) -> None:
    """Its own words are shown; one that is ready is well."""
    checks = {"ok": False, "checks": [{"name": "compute", "ok": False, "message": "never listed"}]}
    port = answering(msgspec.json.encode(checks))
    code, rows = ward.examine(GCE_BACKEND_HTTP__PORT=str(port))
    assert code == 0
    assert rows["daemon"]["verdict"] == "warning"
    assert rows["daemon"]["seen"] == "compute: never listed"
    port = answering(msgspec.json.encode({"ok": True, "checks": []}))
    _, rows = ward.examine(GCE_BACKEND_HTTP__PORT=str(port))
    assert rows["daemon"]["verdict"] == "ok"
    at = f"http://127.0.0.1:{port}"
    _, rows = ward.examine(GCE_BACKEND_HTTP__PORT="0", GCE_BACKEND_URL=at)
    assert rows["daemon"]["verdict"] == "ok", "where the commands find it"
    _, rows = ward.examine(GCE_BACKEND_HTTP__PORT="0")
    assert "say where it is with --url or GCE_BACKEND_URL" in rows["daemon"]["seen"]


@pytest.fixture
def answering() -> Iterator[Callable[[bytes], int]]:
    """Starts HTTP servers that answer everything with one body; gives their ports."""
    servers: list[http.server.HTTPServer] = []

    def serve(body: bytes) -> int:
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Says nothing."""

        server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return int(server.server_port)

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()
