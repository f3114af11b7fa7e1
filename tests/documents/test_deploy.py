"""What deploy/ holds agrees with the code: settings, permissions, units, names."""

from __future__ import annotations

import configparser
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hcl2
import pytest
import yaml
from click.testing import CliRunner

from gce_backend.base.connections import MAX_CONNECTIONS
from gce_backend.cli import main
from gce_backend.daemon.clients import IDENTITY_SCOPES
from gce_backend.settings.settings import Settings, load
from gce_backend.setup import permissions
from support.patience import PATIENCE

ROOT = Path(__file__).parents[2]
TERRAFORM = ROOT / "deploy" / "terraform"
SYSTEMD = ROOT / "deploy" / "systemd"
UNITS = sorted(SYSTEMD.glob("*.*"))


def _terraform() -> dict[str, list[Any]]:
    """All blocks of all files, by kind."""
    found: dict[str, list[Any]] = {}
    for path in sorted(TERRAFORM.glob("*.tf")):
        with path.open() as file:
            for kind, blocks in hcl2.load(file).items():
                if isinstance(blocks, list):
                    found.setdefault(kind, []).extend(blocks)
    return found


def _bare(value: Any) -> Any:
    """Values without the quotes and marks that the parser keeps."""
    if isinstance(value, str):
        return value.strip('"')
    if isinstance(value, list):
        return [_bare(element) for element in value]
    if isinstance(value, dict):
        return {_bare(key): _bare(inner) for key, inner in value.items()}
    return value


def _locals() -> dict[str, Any]:
    return {name: value for block in _terraform()["locals"] for name, value in _bare(block).items()}


def _resources() -> dict[str, dict[str, Any]]:
    """Type and name, joined by a dot, to the resource."""
    return {
        f"{kind}.{name}": body
        for block in _bare(_terraform()["resource"])
        for kind, named in block.items()
        if isinstance(named, dict)
        for name, body in named.items()
    }


META_ARGUMENTS = {"count", "depends_on", "for_each", "lifecycle", "provider"}
PROVIDER = json.loads((Path(__file__).parent / "google_provider.json").read_text())["types"]


def _misfits(where: str, block: dict[str, Any], known: dict[str, Any]) -> Iterator[str]:
    """What a block has that its schema does not know, and what it lacks."""
    required = {name[:-1] for name in known if name.endswith("!")}
    inner = {name.rstrip("!"): body for name, body in known.items() if name != "#"}
    for lacking in required - block.keys():
        yield f"{where} lacks {lacking}"
    for name, value in block.items():
        if name.startswith("__"):
            continue  # the parser's own notes
        if name not in inner:
            yield f"{where} has {name}"
        elif (body := inner[name]) is not None:
            for one in value if isinstance(value, list) else [value]:
                yield from _misfits(f"{where}.{name}", one, body)


def _blocks(kind: str) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Type, name and body of each resource or data source of Google's provider."""
    for block in _bare(_terraform()[kind]):
        for of, named in block.items():
            for name, body in named.items() if of in _types(kind) else ():
                yield of, name, {k: v for k, v in body.items() if k not in META_ARGUMENTS}


def _types(kind: str) -> set[str]:
    return {name.partition(" ")[2] for name in PROVIDER if name.startswith(kind)}


@pytest.mark.parametrize("kind", ["resource", "data"])
def test_terraform_says_only_what_googles_provider_knows(kind: str) -> None:
    """No argument with a slip in its name, and none that is required is missing."""
    seen = list(_blocks(kind))
    assert {of for of, _, _ in seen} == _types(kind)
    assert [
        misfit
        for of, name, body in seen
        for misfit in _misfits(f"{of}.{name}", body, PROVIDER[f"{kind} {of}"])
    ] == []


def test_a_slip_in_a_terraform_argument_is_found() -> None:
    """Also in a block inside a block, and where something required is missing."""
    known = PROVIDER["resource google_compute_instance"]
    slip = {
        "name": "one",
        "machine_type": "e2-small",
        "boot_disk": [{"initialise_params": [{"image": "x"}]}],
    }
    assert set(_misfits("it", slip, known)) == {
        "it lacks network_interface",
        "it.boot_disk has initialise_params",
    }


def test_terraform_refers_only_to_what_there_is() -> None:
    """Each `type.name.attribute` names a resource of these files, and what can be read of it."""
    text = "".join(path.read_text() for path in TERRAFORM.glob("*.tf"))
    declared = {
        kind: {(of, name) for of, name, _ in _blocks(kind)} for kind in ("resource", "data")
    }
    found = re.findall(r"(data\.)?\b(google_\w+)\.(\w+)(?:\[[^]]+\])?(?:\.(\w+))?", text)
    assert len(found) > 20
    for data, of, name, attribute in found:
        kind = "data" if data else "resource"
        assert (of, name) in declared[kind]
        assert not attribute or attribute in PROVIDER[f"{kind} {of}"]["#"]


def test_terraform_grants_exactly_what_the_daemon_needs() -> None:
    """The custom roles are the lists that `setup` and `doctor` check."""
    named = _locals()
    assert named["compute_permissions"] == list(permissions.COMPUTE)
    assert named["datastore_permissions"] == list(permissions.DATASTORE)
    assert named["look_permissions"] == list(permissions.LOOKS)
    assert named["provider_permissions"] == list(permissions.PROVIDER_PUBSUB)


def test_another_image_or_setting_makes_another_vm() -> None:
    """A running VM does not read new metadata: an upgrade in place would change nothing."""
    resources = _resources()
    assert resources["terraform_data.cloud_init"]["input"] == "${local.cloud_init}"
    machine = resources["google_compute_instance.daemon"]
    (lifecycle,) = machine["lifecycle"]
    assert lifecycle["replace_triggered_by"] == ["${terraform_data.cloud_init}"]
    assert machine["metadata"]["user-data"] == "${local.cloud_init}"


def test_a_second_vm_stands_by_in_another_zone() -> None:
    """Both daemons elect their leader as soon as there are two."""
    zones, election = _locals()["zones"], _locals()["election"]
    assert _resources()["google_compute_instance.daemon"]["for_each"].endswith("local.zones}")
    assert "gce-backend-standby = var.standby_zone" in str(zones)
    assert 'STORE__LEADER_ELECTION = "true"' in str(election)
    assert "local.election" in str(_locals()["environment"])


def test_the_vm_has_the_scopes_that_the_daemon_asks_tokens_for() -> None:
    """Google's APIs are all in cloud-platform; who the daemon is, for the others, is not."""
    (account,) = _resources()["google_compute_instance.daemon"]["service_account"]
    identity = [scope.rpartition("/")[2].replace(".", "-") for scope in IDENTITY_SCOPES]
    assert account["scopes"] == ["cloud-platform", *identity]
    by_hand = (ROOT / "docs" / "deploy.md").read_text()
    assert f"--scopes {','.join(account['scopes'])} " in by_hand


@pytest.mark.parametrize("kind", ["topic", "subscription"])
def test_doctor_on_the_vm_may_look_at_the_dead_letter_pair_too(kind: str) -> None:
    """What it may not look at it would call a failure."""
    looks = _resources()[f"google_pubsub_{kind}_iam_member.daemon_looks"]
    assert set(looks["for_each"].values()) == {
        f"${{google_pubsub_{kind}.{name}.id}}" for name in ("messages", "dead_letter")
    }
    assert looks["role"] == "${google_project_iam_custom_role.looks.id}"


def test_terraform_makes_what_setup_makes() -> None:
    """Topic, subscription and dead-letter pair have the names and limits of the settings."""
    resources = _resources()
    assert _locals()["name"] == Settings().pubsub.topic == Settings().pubsub.subscription
    messages = resources["google_pubsub_subscription.messages"]
    assert messages["ack_deadline_seconds"] == Settings().pubsub.ack_deadline_seconds
    (dead_letter,) = messages["dead_letter_policy"]
    assert dead_letter["max_delivery_attempts"] == 20
    assert {
        "google_pubsub_topic.messages",
        "google_pubsub_topic.dead_letter",
        "google_pubsub_subscription.dead_letter",
        "google_pubsub_topic_iam_member.dead_letter",
        "google_pubsub_subscription_iam_member.dead_letter",
    } <= set(resources)


def test_every_variable_and_every_local_is_described_and_used() -> None:
    """No variable without a description, none that nothing reads."""
    text = "".join(path.read_text() for path in TERRAFORM.glob("*.tf"))
    variables = {
        name: body for block in _bare(_terraform()["variable"]) for name, body in block.items()
    }
    for name, body in variables.items():
        if name.startswith("__"):
            continue
        assert body["description"]
        assert f"var.{name}" in text
    for name in _locals():
        assert name.startswith("__") or f"local.{name}" in text


def _cloud_init() -> dict[str, Any]:
    """cloud-init.yaml as Terraform's templatefile renders it for one set of values."""
    text = (TERRAFORM / "cloud-init.yaml").read_text()
    loop = re.compile(
        r"%\{ for name, value in environment ~\}\n\s*(.*?)%\{ endfor ~\}\n", re.DOTALL
    )
    environment = {"GCE_BACKEND_PROJECT": "my-project", "GCE_BACKEND_HTTP__PORT": "8080"}
    line = loop.search(text)
    assert line
    indent = "      "
    lines = [
        line[1].replace("${name}", name).replace("${value}", value).strip()
        for name, value in environment.items()
    ]
    text = text.replace(line[0], "".join(f"{indent}{each}\n" for each in lines))
    values = {
        "image": f"us-central1-docker.pkg.dev/p/gce-backend/gce-backend@sha256:{'0' * 64}",
        "registry": "us-central1-docker.pkg.dev",
        "indent(6, probe)": _indented("gce-backend-probe.service"),
        "indent(6, timer)": _indented("gce-backend-probe.timer"),
    }
    for name, value in values.items():
        text = text.replace(f"${{{name}}}", value)
    assert "${" not in text
    assert "%{" not in text
    rendered: dict[str, Any] = yaml.safe_load(text)
    return rendered


def _indented(unit: str) -> str:
    return (SYSTEMD / unit).read_text().replace("\n", "\n      ")


def test_the_steps_by_hand_fill_in_all_of_the_template() -> None:
    """What Terraform fills in of cloud-init.yaml is named, behind the image that was pushed."""
    page = (ROOT / "docs" / "deploy.md").read_text()
    by_hand = page.partition("## By hand")[2].partition("## Without containers")[0]
    text = (TERRAFORM / "cloud-init.yaml").read_text()
    loop = re.compile(r"%\{ for .*(?=%\{ endfor ~\})", re.DOTALL)
    places = set(re.findall(r"[$%]\{.*?\}", loop.sub("", text)))
    assert len(places) == 5
    assert {place for place in places if f"`{place}`" not in by_hand} == set()
    steps = ("repositories create", "(#the-image)", "cloud-init.yaml`", "instances create")
    assert sorted(steps, key=by_hand.index) == list(steps)


def test_the_vm_starts_a_container_that_may_do_nothing_but_run() -> None:
    """cloud-init is YAML, its units parse, and the container has no rights and no disk."""
    files = {file["path"]: file["content"] for file in _cloud_init()["write_files"]}
    unit = _unit(files["/etc/systemd/system/gce-backend.service"])
    command = unit["Service"]["ExecStart"]
    for option in ("--read-only", "--cap-drop ALL", "--security-opt no-new-privileges", "--rm"):
        assert option in command
    assert unit["Service"]["Restart"] == "always"
    assert unit["Unit"]["StartLimitIntervalSec"] == "0"
    for name in ("gce-backend-probe.service", "gce-backend-probe.timer"):
        assert files[f"/etc/systemd/system/{name}"].strip() == (SYSTEMD / name).read_text().strip()


def test_the_probe_leaves_a_daemon_alone_that_somebody_has_stopped() -> None:
    """Whoever restores the store stops the daemon first, and must find it stopped."""
    command = _unit((SYSTEMD / "gce-backend-probe.service").read_text())["Service"]["ExecStart"]
    assert re.findall(r"systemctl ([a-z-]+) gce-backend\.service", command) == ["try-restart"]


def test_the_vms_environment_is_one_that_the_daemon_understands() -> None:
    """Each line of the environment file is a setting."""
    files = {file["path"]: file["content"] for file in _cloud_init()["write_files"]}
    lines = files["/etc/gce-backend/environment"].split("\n")
    environment = dict(line.split("=", 1) for line in lines if line)
    settings = load(None, environment)
    assert (settings.project, settings.http.port) == ("my-project", 8080)


def _unit(text: str) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(
        strict=False, interpolation=None, delimiters=("=",), comment_prefixes=("#",)
    )
    parser.optionxform = str  # type: ignore[assignment,method-assign]  # systemd's keys have capitals
    parser.read_string(text.replace("\\\n", " "))
    return parser


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.name)
def test_a_unit_parses_and_probes_the_daemons_own_port(path: Path) -> None:
    """Sections are systemd's; what is probed is where the daemon listens by default."""
    unit = _unit(path.read_text())
    assert set(unit.sections()) <= {"Unit", "Service", "Timer", "Install"}
    assert unit["Unit"]["Description"]
    if path.name == "gce-backend-probe.service":
        assert f":{Settings().http.port}/healthz" in unit["Service"]["ExecStart"]


@pytest.mark.parametrize(
    "name", ["gce-backend", "gce-backend-machine-provider", "gce-backend-probe"]
)
def test_line_24_a_unit_may_do_no_more_than_its_work_takes(name: str) -> None:
    """Each directive that keeps a service from the rest of its host is set."""
    text = (SYSTEMD / f"{name}.service").read_text()
    unit = _unit(text)["Service"]
    confined = (
        *("NoNewPrivileges", "ProtectHome", "PrivateTmp", "PrivateDevices", "PrivateMounts"),
        *("ProtectClock", "ProtectControlGroups", "ProtectHostname", "ProtectKernelLogs"),
        *("ProtectKernelModules", "ProtectKernelTunables", "RestrictNamespaces"),
        *("RestrictRealtime", "RestrictSUIDSGID", "LockPersonality"),
    )
    assert {key: unit.get(key) for key in confined} == dict.fromkeys(confined, "yes")
    assert unit["CapabilityBoundingSet"] == unit["AmbientCapabilities"] == ""
    assert unit["ProtectSystem"] == "strict"
    assert unit["ProtectProc"] == "invisible"
    assert unit["SystemCallArchitectures"] == "native"
    assert unit["RestrictAddressFamilies"] == "AF_INET AF_INET6 AF_UNIX"
    assert unit["UMask"] == "0077"
    filters = re.findall(r"^SystemCallFilter=(.*)$", text, re.MULTILINE)
    assert filters == ["@system-service", "~@privileged @resources"]
    if analyze := shutil.which("systemd-analyze"):
        assert _exposure(analyze, SYSTEMD / f"{name}.service") < 2


def _exposure(analyze: str, unit: Path) -> float:
    """How much of its host a service can touch, from 0 to 10, by systemd's own measure."""
    done = subprocess.run(
        [analyze, "security", "--offline=true", "--no-pager", str(unit)],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    exposure = re.search(r"Overall exposure level for .*: ([0-9.]+) ", done.stdout)
    assert exposure, done.stderr
    return float(exposure[1])


def test_line_21_a_daemon_has_descriptors_for_more_connections_than_it_takes() -> None:
    """Calls, the store and the log need some, too; in a container as on a host."""
    unit = _unit((SYSTEMD / "gce-backend.service").read_text())["Service"]
    assert int(unit["LimitNOFILE"]) > 4 * MAX_CONNECTIONS
    files = {file["path"]: file["content"] for file in _cloud_init()["write_files"]}
    command = _unit(files["/etc/systemd/system/gce-backend.service"])["Service"]["ExecStart"]
    assert f"--ulimit nofile={unit['LimitNOFILE']}:{unit['LimitNOFILE']}" in command


@pytest.mark.parametrize("name", ["gce-backend", "gce-backend-machine-provider"])
def test_the_hosts_unit_runs_the_command_as_nobody_special(name: str) -> None:
    """ExecStart is a command line that exists; the unit leaves time for an orderly end."""
    unit = _unit((SYSTEMD / f"{name}.service").read_text())["Service"]
    program, *arguments = unit["ExecStart"].split()
    assert program.endswith("/bin/gce-backend")
    assert CliRunner().invoke(main, [arguments[0], "--help"]).exit_code == 0
    assert arguments[1] == "--settings"
    assert unit["DynamicUser"] == unit["NoNewPrivileges"] == "yes"
    assert unit["ProtectSystem"] == "strict"
    assert float(unit["TimeoutStopSec"].removesuffix("s")) > Settings().shutdown_seconds
