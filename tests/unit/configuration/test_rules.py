"""The rules of templates.cfg and managers.cfg: what is refused, where, and what is accepted."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gce_backend.configuration.naming import MAX_BASE_NAME_LENGTH
from gce_backend.configuration.parsing import parse
from gce_backend.configuration.problems import InvalidConfigurationError
from gce_backend.configuration.proto import config_pb2 as pb
from gce_backend.configuration.types import ServiceAccount
from support.config_texts import (
    CLOUD_SCOPE,
    account,
    manager,
    problems_of,
    template,
    warnings_of,
)


def expected_line(text: str, field: str) -> int:
    """The line of the field, e.g. `tags[1]`, or of the block when it is not there."""
    name, _, rest = field.partition("[")
    index = int(rest.partition("]")[0]) if rest else 0
    lines = [n for n, line in enumerate(text.splitlines(), 1) if line.lstrip().startswith(name)]
    return lines[index] if index < len(lines) else 1


BIG = "x" * (256 * 1024)
REGIONAL = "regions/us-central1/subnetworks/s"

WRONG_TEMPLATES: list[tuple[dict[str, Any], str, str]] = [
    ({"base_name": None}, "base_name", "is required"),
    ({"base_name": ""}, "base_name", "is required"),
    ({"base_name": "Linux"}, "base_name", "is not a name"),
    ({"base_name": "linux-"}, "base_name", "is not a name"),
    ({"base_name": "1linux"}, "base_name", "is not a name"),
    ({"base_name": "a" * 64}, "base_name", "is not a name"),
    ({"base_name": "a" * 39}, "base_name", "use at most 38"),
    ({"project": None}, "project", "is required"),
    ({"project": "My Project"}, "project", "is not a project id"),
    ({"project": "123456"}, "project", "not the project's number"),
    ({"machine_type": None}, "machine_type", "is required"),
    ({"machine_type": "zones/z/machineTypes/e2-small"}, "machine_type", "its name alone"),
    ({"machine_type": "small"}, "machine_type", "is not a machine type"),
    ({"machine_type": "custom-8"}, "machine_type", "is not a custom machine type"),
    ({"machine_type": "n2-custom-8-16000"}, "machine_type", "multiple of 256"),
    ({"image_name": "family/debian"}, "image_name", "is not a name"),
    ({"image_project": "debian cloud"}, "image_project", "is not a project id"),
    ({"disk_size_gb": -1}, "disk_size_gb", "use 10 to 65536"),
    ({"disk_size_gb": 9}, "disk_size_gb", "use 10 to 65536"),
    ({"disk_size_gb": 65537}, "disk_size_gb", "use 10 to 65536"),
    ({"disk_type": "pd-fast"}, "disk_type", "is not one of pd-standard, "),
    ({"disk_type": "a\u2028b"}, "disk_type", r"a\u2028b"),
    ({"network_url": "https://example.com/global/networks/n"}, "network_url", "is not a network"),
    ({"network_url": "projects/P/global/networks/n"}, "network_url", "is not a network"),
    ({"network_url": "global/networks/N"}, "network_url", "is not a network"),
    ({"min_cpu_platform": "<any>"}, "min_cpu_platform", "is not a CPU platform"),
    ({"service_accounts": [account("")]}, "service_accounts[0].name", "is required"),
    ({"service_accounts": [account("me")]}, "service_accounts[0].name", "email address"),
    ({"require_agent": True, "service_accounts": None}, "require_agent", "service_accounts"),
    ({"tags": ["fine", "Not fine"]}, "tags[1]", "is not a name"),
    ({"tags": [f"t{n}" for n in range(65)]}, "tags", "use at most 64"),
    ({"labels": ["gce-backend-owner:me"]}, "labels[0]", "as the daemon's own labels do"),
    ({"labels": ["Team:x"]}, "labels[0]", "is not a label"),
    ({"local_ssds": 25}, "local_ssds", "use 1 to 24"),
    ({"additional_disks": [{}]}, "additional_disks[0].size_gb", "is required"),
    ({"additional_disks": [{"size_gb": 9}]}, "additional_disks[0].size_gb", "use 10 to 65536"),
    (
        {"additional_disks": [{"size_gb": 10, "disk_type": "fast"}]},
        "additional_disks[0].disk_type",
        "is not one of",
    ),
    (
        {"additional_disks": [{"size_gb": 10, "labels": ["gce-backend-x:y"]}]},
        "additional_disks[0].labels[0]",
        "as the daemon's own labels do",
    ),
    (
        {"additional_disks": [{"size_gb": 10, "labels": [f"l{n}:x" for n in range(60)]}]},
        "additional_disks[0].labels",
        "60 are too many",
    ),
    ({"additional_disks": [{"size_gb": 10}] * 17}, "additional_disks", "use at most 16"),
    ({"guest_accelerators": ["nvidia-tesla-t4"]}, "guest_accelerators[0]", 'write "type:count"'),
    ({"guest_accelerators": ["nvidia-tesla-t4:0"]}, "guest_accelerators[0]", "not an accelerator"),
    ({"confidential_type": "SGX"}, "confidential_type", "is not one of SEV, SEV_SNP, TDX"),
    ({"reservation": "Held"}, "reservation", "is not a name"),
    ({"resource_policies": ["a b"]}, "resource_policies[0]", "is not a name"),
    ({"provisioning_model": "CHEAP"}, "provisioning_model", "is not one of STANDARD, SPOT"),
    ({"canary": -1}, "canary", "use 0 to 2000"),
    ({"dimensions": ["os_family"]}, "dimensions[0]", 'write "key:value"'),
    ({"dimensions": ["os_family:BEOS"]}, "dimensions[0]", "LINUX, OSX, WINDOWS"),
    ({"dimensions": ["disk_size_gb:10"]}, "dimensions[0]", "is not one of backend, disk_gb"),
    ({"dimensions": ["disk_gb:ten"]}, "dimensions[0]", "positive integer"),
    ({"metadata": ["key"]}, "metadata[0]", 'write "key:value"'),
    ({"metadata": [":value"]}, "metadata[0]", 'write "key:value"'),
    ({"metadata": ["a key:value"]}, "metadata[0]", "is not a metadata key"),
    ({"metadata": [f"{'k' * 129}:v"]}, "metadata[0]", "is not a metadata key"),
    ({"metadata": [f"a:{BIG}x"]}, "metadata[0]", "use at most 262144"),
    ({"metadata_from_file": ["a"]}, "metadata_from_file[0]", 'write "key:path"'),
    ({"metadata_from_file": ["a:missing"]}, "metadata_from_file[0]", "there is no file"),
    ({"metadata_from_file": ["a:/etc/passwd"]}, "metadata_from_file[0]", "not a path in the"),
    ({"metadata_from_file": ["a:x/../../y"]}, "metadata_from_file[0]", "not a path in the"),
    ({"metadata_from_file": ["a:"]}, "metadata_from_file[0]", "not a path in the"),
    ({"metadata_from_file": ["a:large"]}, "metadata_from_file[0]", "use at most 262144"),
    ({"image_name": None}, "image_name", "image_family or boot_snapshot_name"),
    ({"image_family": "debian-12"}, "image_family", "remove all but one of image_name and image"),
    ({"image_name": None, "image_family": "Debian"}, "image_family", "is not a name"),
    ({"image_name": None, "snapshot_name": "s"}, "image_name", "those of a second disk"),
    ({"image_name": None, "snapshot_labels": ["a:b"]}, "image_name", "those of a second disk"),
    ({"boot_snapshot_name": "s"}, "boot_snapshot_name", "one source"),
    ({"image_name": None, "boot_snapshot_name": "Snap"}, "boot_snapshot_name", "is not a name"),
    ({"snapshot_name": "Snap"}, "snapshot_name", "is not a name"),
    ({"snapshot_labels": ["A:b"]}, "snapshot_labels[0]", "is not a label"),
    ({"snapshot_labels": [f"l{n}:b" for n in range(65)]}, "snapshot_labels", "use at most 64"),
    ({"network_url": "De fault"}, "network_url", "is not a network"),
    ({"network_url": f"regions/us-central{'1' * 99}/subnetworks/s"}, "network_url", "is not a net"),
    ({"project": ".".join(["a" * 60] * 2) + ":p"}, "project", "is not a project id"),
    ({"service_accounts": [account(f"a@{'b' * 260}.com")]}, "service_accounts[0].name", "email"),
    (
        {"service_accounts": [account("default", "storage-admin")]},
        "service_accounts[0].scopes[0]",
        "short name",
    ),
    (
        {"service_accounts": [account("default", "https://x/" + "a" * 250)]},
        "service_accounts[0].scopes[0]",
        "is not a scope",
    ),
    (
        {"service_accounts": [account("default", *(f"https://x/{n}" for n in range(101)))]},
        "service_accounts[0].scopes",
        "use at most 100",
    ),
    (
        {"service_accounts": [account(f"a{n}@b.com") for n in range(17)]},
        "service_accounts",
        "use at most 16",
    ),
    ({"dimensions": [f"snapshot_labels:a:{n}" for n in range(65)]}, "dimensions", "at most 64"),
    ({"dimensions": [f"os_version:{'1' * 257}"]}, "dimensions[0]", "too long"),
    (
        {"dimensions": ["linux_flavor:FEDORA"]},
        "dimensions[0]",
        "DEBIAN, UBUNTU: correct it, or allow",
    ),
    ({"dimensions": ["disk_size_gb:10"]}, "dimensions[0]", "machine_provider.extra_dimensions"),
    ({"dimensions": ["backend:AWS"]}, "dimensions[0]", "DUMMY, GCE, VSPHERE"),
    ({"dimensions": ["disk_type:NVME"]}, "dimensions[0]", "HDD, SSD"),
    ({"dimensions": ["num_cpus:x"]}, "dimensions[0]", "not a positive integer"),
    ({"dimensions": ["memory_gb:x"]}, "dimensions[0]", "is not a number"),
    ({"metadata": ["a:x\x00y"]}, "metadata[0]", r"control character \x00"),
    ({"metadata_from_file": ["a:odd"]}, "metadata_from_file[0]", r"control character \x07"),
    ({"metadata": [f"a:{BIG}", f"b:{BIG[4000:]}"]}, "metadata", "use at most 520192"),
    ({"metadata_from_file": [f"a:{'x' * 257}"]}, "metadata_from_file[0]", "too long for a path"),
]


@pytest.mark.parametrize(
    ("changes", "field", "says"),
    WRONG_TEMPLATES,
    ids=[f"{n}-{field}" for n, (_, field, _) in enumerate(WRONG_TEMPLATES)],
)
def test_wrong_template_is_refused_with_its_place(
    changes: dict[str, Any], field: str, says: str
) -> None:
    """Exactly one problem, with file, line, template, field, and words that help."""
    text = template(**changes)
    found = problems_of(text, files={"script": "echo", "large": BIG + "x", "odd": "a\ab"})
    assert len(found) == 1, found
    (problem,) = found
    name = changes.get("base_name", "linux")
    assert problem.file == "templates.cfg"
    assert problem.line == expected_line(text, field)
    assert problem.subject == (f'template "{name}"' if name else "templates[0]")
    assert problem.field == field
    assert says in problem.message
    assert "\n" not in str(problem)


ODD_TEMPLATES: list[tuple[dict[str, Any], str, str]] = [
    ({"service_accounts": None}, "service_accounts", "the VMs do not receive"),
    ({"service_accounts": [account(), account()]}, "service_accounts[1]", "the last one counts"),
    (
        {"service_accounts": [account("default", CLOUD_SCOPE, "cloud-platform")]},
        "service_accounts[0].scopes[1]",
        "given several times",
    ),
    ({"tags": ["a", "b", "a"]}, "tags[2]", "given several times"),
    ({"dimensions": ["os_version:"]}, "dimensions[0]", "is empty"),
    ({"dimensions": ["disk_gb:20"], "disk_size_gb": 10}, "dimensions[0]", "because of disk_size"),
    ({"dimensions": ["disk_type:SSD"]}, "dimensions[0]", 'is "HDD" because of disk_type'),
    ({"dimensions": ["project:other"]}, "dimensions[0]", "because of project"),
    ({"dimensions": ["backend:DUMMY"]}, "dimensions[0]", "because of the daemon"),
    ({"dimensions": ["hostname:h"]}, "dimensions[0]", "every VM has its own"),
    ({"dimensions": ["num_cpus:2"]}, "dimensions[0]", "read from the machine type"),
    ({"dimensions": ["memory_gb:7.5"]}, "dimensions[0]", "read from the machine type"),
    (
        {"dimensions": ["os_family:LINUX", "os_version:1", "os_family:OSX"]},
        "dimensions[2]",
        "the last one counts",
    ),
    ({"snapshot_name": "s", "dimensions": ["snapshot:t"]}, "dimensions[0]", "of snapshot_name"),
    (
        {"snapshot_labels": ["a:b"], "dimensions": ["snapshot_labels:a:c"]},
        "dimensions[0]",
        "not in the field snapshot_labels",
    ),
    ({"snapshot_labels": ["a:b", "c:d", "a:c"]}, "snapshot_labels[2]", "the last one counts"),
    ({"metadata": ["a:1", "b:1", "a:2"]}, "metadata[2]", "the last one counts"),
    (
        {"metadata": ["a:1"], "metadata_from_file": ["a:script"]},
        "metadata_from_file[0]",
        "the last one counts",
    ),
    ({"metadata_from_file": ["a:windows"]}, "metadata_from_file[0]", "Windows line ends"),
    ({"project": ["my-project", "other"]}, "project", "the last value counts"),
]


@pytest.mark.parametrize(
    ("changes", "field", "says"),
    ODD_TEMPLATES,
    ids=[f"{n}-{field}" for n, (_, field, _) in enumerate(ODD_TEMPLATES)],
)
def test_line_16_a_slip_in_a_template_is_taken_with_a_warning(
    changes: dict[str, Any], field: str, says: str
) -> None:
    """Exactly one warning, with its place; the configuration is used."""
    text = template(**changes)
    (warning,) = warnings_of(text, files={"script": "echo", "windows": "#!/bin/sh\r\n"})
    assert (warning.file, warning.field) == ("templates.cfg", field)
    assert warning.line is not None
    assert says in warning.message
    assert ": warning: " in str(warning)


def test_of_what_is_given_several_times_the_last_value_counts() -> None:
    """As in the protobuf library, and as the release before this one had it."""
    text = template(
        project=["one", "two"],
        tags=["a", "b", "a"],
        metadata=["k:1", "m:1", "k:2"],
        metadata_from_file=["m:script"],
        snapshot_labels=["a:1", "a:2"],
        dimensions=["os_version:1", "os_version:2", "snapshot_labels:a:1", "snapshot_labels:a:2"],
        service_accounts=[account("default", "cloud-platform"), account("default")],
    )
    (found,) = parse(text, "", {"script": "echo"}).templates
    assert found.project == "two"
    assert found.tags == ("a", "b")
    assert found.metadata == (("k", "2"), ("m", "echo"))
    assert found.snapshot_labels == (("a", "2"),)
    assert found.dimensions == (
        ("os_version", "2"),
        ("snapshot_labels", "a:1"),
        ("snapshot_labels", "a:2"),
    )
    assert found.service_accounts == (ServiceAccount("default"),)


def test_short_forms_become_the_full_ones() -> None:
    """Written either way, it is the same revision."""
    (found,) = parse(
        template(network_url="lab", service_accounts=[account("default", "cloud-platform")]), "", {}
    ).templates
    assert found.network_url == "global/networks/lab"
    assert found.service_accounts[0].scopes == (CLOUD_SCOPE,)
    for form in ("networks/lab", "global/networks/lab"):
        (other,) = parse(template(network_url=form), "", {}).templates
        assert other.network_url == found.network_url


def test_line_07_dimensions_that_the_settings_allow_are_taken() -> None:
    """A key for any value, or one value of a key."""
    text = template(dimensions=["linux_flavor:FEDORA", "gpu:T4"])
    assert not parse(text, "", {}, ("linux_flavor:FEDORA", "gpu")).warnings
    with pytest.raises(InvalidConfigurationError, match="gpu"):
        parse(text, "", {}, ("linux_flavor:FEDORA", "gpu:P100"))


WRONG_MANAGERS: list[tuple[dict[str, Any], str, str]] = [
    ({"minimum_size": -1}, "minimum_size", "-1 is too small"),
    ({"minimum_size": 2001, "maximum_size": 0}, "minimum_size", "at most 2000"),
    ({"minimum_size": 5}, "maximum_size", "below minimum_size (5)"),
    ({"maximum_size": -4}, "maximum_size", "is negative"),
    ({"maximum_size": 2001}, "maximum_size", "at most 2000"),
    ({"spare_size": -1}, "spare_size", "use 0 to 2000"),
    ({"spare_size": 1, "maximum_size": None}, "spare_size", "needs a maximum_size"),
    ({"surplus_seconds": -2}, "surplus_seconds", "or -1 to keep all VMs"),
    ({"surplus_seconds": 31536001}, "surplus_seconds", "use 0 to 31536000"),
    ({"max_surge": -1, "max_unavailable": 1}, "max_surge", "use 0 to 2000"),
    ({"max_unavailable": 2001}, "max_unavailable", "use 0 to 2000"),
    ({"max_surge": 0}, "max_surge", "set max_unavailable to 1 or more"),
    ({"max_age_seconds": 599}, "max_age_seconds", "use 600 to 315360000, or 0 for never"),
    ({"boot_seconds": 0}, "boot_seconds", "use 60 to 86400, or -1 to keep"),
    ({"zones": ["us-central1-a", "us-central1-b"]}, "zones", "remove one of them"),
    ({"zone": None, "zones": ["us-central1-a"]}, "zones", "use zone for one, or 2 to 20"),
    ({"zone": None}, "zone", "is required"),
    ({"zone": "us-central1"}, "zone", "is not a zone"),
    ({"zone": f"us-central{'1' * 1590}-a"}, "zone", "is not a zone"),
    ({"zone": "zones/us-central1-a"}, "zone", "is not a zone"),
    ({"zone": "europe-west1-b"}, "zone", "the region of the template's subnetwork"),
]


@pytest.mark.parametrize(
    ("changes", "field", "says"),
    WRONG_MANAGERS,
    ids=[f"{n}-{field}" for n, (_, field, _) in enumerate(WRONG_MANAGERS)],
)
def test_wrong_manager_is_refused_with_its_place(
    changes: dict[str, Any], field: str, says: str
) -> None:
    """Exactly one problem, with file, line, manager, field, and words that help."""
    text = manager(**changes)
    (problem,) = problems_of(template(network_url=REGIONAL), text)
    assert (problem.file, problem.subject, problem.field) == ("managers.cfg", "managers[0]", field)
    assert problem.line == expected_line(text, field)
    assert says in problem.message


@pytest.mark.parametrize(
    ("changes", "field", "says"),
    [
        ({"template_base_name": None}, "template_base_name", "this manager is skipped"),
        ({"template_base_name": "linus"}, "template_base_name", "this manager is skipped"),
        ({"minimum_size": None}, "minimum_size", "no machine is kept"),
        ({"minimum_size": [1, 2]}, "minimum_size", "the last value counts"),
    ],
)
def test_line_16_a_slip_in_a_manager_is_taken_with_a_warning(
    changes: dict[str, Any], field: str, says: str
) -> None:
    """The other managers are used; so is this one, when its template is known."""
    text = manager(zone="us-east1-b") + manager(**changes)
    config = parse(template(), text, {})
    (warning,) = config.warnings
    assert (warning.file, warning.subject, warning.field) == ("managers.cfg", "managers[1]", field)
    assert says in warning.message
    known = changes.get("template_base_name", "linux") == "linux"
    assert len(config.managers) == 1 + known


def test_no_machine_at_all_may_be_asked_for() -> None:
    """A group of none exists, and holds what is added to it."""
    config = parse(template(), manager(minimum_size=0), {})
    assert [m.minimum_size for m in config.managers] == [0]
    assert not config.warnings


def test_base_name_is_unique_also_across_projects() -> None:
    """The second template of a name is told where the first is."""
    text = template() + template(project="other-project")
    (problem,) = problems_of(text)
    assert (problem.line, problem.field) == (8 + 1, "base_name")
    assert "templates[0]" in problem.message


def test_zone_is_unique_for_each_template() -> None:
    """Two managers of one template in one zone are refused; two templates may share a zone."""
    templates = template() + template(base_name="other")
    assert not problems_of(templates, manager() + manager(template_base_name="other"))
    (problem,) = problems_of(templates, manager() + manager())
    assert (problem.subject, problem.field, problem.line) == ("managers[1]", "zone", 6 + 5)
    assert "managers[0]" in problem.message


def test_zones_with_one_short_form_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """VMs in two zones never share names, even should two zones' short forms collide."""
    monkeypatch.setattr("gce_backend.configuration.naming.short_zone", lambda zone: zone[:4])
    (problem,) = problems_of(template(), manager() + manager(zone="us-cedar1-a"))
    assert (problem.subject, problem.field) == ("managers[1]", "zone")
    assert "short form" in problem.message


GOOD_TEMPLATES: list[dict[str, Any]] = [
    {"base_name": "a" * MAX_BASE_NAME_LENGTH},
    {"project": "example.com:my-project"},
    {"machine_type": "custom-8-16384"},
    {"machine_type": "n2-custom-8-16384-ext"},
    {"machine_type": "e2-custom-micro-1024"},
    {"machine_type": "c3-standard-4-lssd"},
    {"network_url": "global/networks/default"},
    {"network_url": "projects/example.com:p/regions/us-east1/subnetworks/s"},
    {"network_url": f"https://www.googleapis.com/compute/v1/projects/my-project/{REGIONAL}"},
    {"network_url": ""},
    {"disk_size_gb": 0},
    {"disk_size_gb": 65536},
    {"min_cpu_platform": "AMD Rome"},
    {"metadata": ["empty:", "url:http://x:80/"]},
    {"dimensions": ["backend:GCE", "project:my-project", "disk_type:HDD"]},
    {"dimensions": ["disk_gb:20"], "disk_size_gb": 20},
    {"dimensions": ["disk_type:SSD"], "disk_type": "pd-ssd"},
    {"dimensions": ["snapshot_labels:a:b", "snapshot_labels:c:d"]},
    {"image_name": None, "boot_snapshot_name": "s", "dimensions": ["snapshot:s"]},
    {"snapshot_name": "s", "snapshot_labels": ["a:b"], "dimensions": ["snapshot:s"]},
    {"snapshot_labels": ["a:b"], "dimensions": ["snapshot_labels:a:b"]},
    {"dimensions": ["linux_flavor:DEBIAN"]},
    {"network_url": "http://www.googleapis.com/compute/v1/projects/p/global/networks/lab"},
    {"metadata": ["lines:a\tb\r\nc\x0c\x1b[0m"]},
    {"service_accounts": [account("robot@my-project.iam.gserviceaccount.com")]},
    {"service_accounts": [account("default", "https://mail.google.com/"), account("a@b.com")]},
    {"metadata": [f"a:{BIG[2:]}", f"b:{BIG[4098:]}"]},
]


@pytest.mark.parametrize("changes", GOOD_TEMPLATES, ids=[next(iter(c)) for c in GOOD_TEMPLATES])
def test_unusual_template_is_accepted(changes: dict[str, Any]) -> None:
    """What Compute Engine takes, we take."""
    assert not problems_of(template(**changes))
    assert not warnings_of(template(**changes))


WHEN = 'start: "08:00" end: "18:00" time_zone: "Europe/Zurich"'


@pytest.mark.parametrize(
    ("fields", "field", "says"),
    [
        (WHEN, "", "changes nothing: set minimum_size, maximum_size or spare_size"),
        (f"{WHEN} minimum_size: -1", "minimum_size", "-1 is too small"),
        (f"{WHEN} minimum_size: 6", "maximum_size", "5 is below minimum_size (6)"),
        (f"{WHEN} maximum_size: 1", "maximum_size", "1 is below minimum_size (2)"),
        (WHEN.replace("08", "24") + " spare_size: 1", "start", 'use "00:00"'),
        (WHEN.replace("08", "8") + " spare_size: 1", "start", '"8:00" is not a time'),
        (WHEN.replace("18:00", "") + " spare_size: 1", "end", "is required"),
        (WHEN.replace("Zurich", "Atlantis") + " spare_size: 1", "time_zone", "IANA database"),
        (WHEN.replace("Europe", "..") + " spare_size: 1", "time_zone", "IANA database"),
        (WHEN.replace("Europe/Zurich", "") + " spare_size: 1", "time_zone", "is required"),
    ],
)
def test_wrong_schedule_is_refused_with_its_place(fields: str, field: str, says: str) -> None:
    """With file, manager, field and remedy."""
    text = manager(maximum_size=5).replace("}", f"  schedules {{ {fields} }}\n}}")
    [problem] = problems_of(template(), text)
    place = f"schedules[0].{field}".rstrip(".")
    assert (problem.file, problem.subject, problem.field) == ("managers.cfg", "managers[0]", place)
    assert problem.line
    assert says in problem.message


def test_too_many_schedules_are_refused() -> None:
    """They are looked at whenever sizes are."""
    one = f"  schedules {{ {WHEN} spare_size: 1 }}\n"
    text = manager(maximum_size=5).replace("}", f"{one * 51}}}")
    [problem] = problems_of(template(), text)
    assert "51 are too many: use at most 50" in problem.message


@pytest.mark.parametrize("maximum", [None, 0, 2, 2000])
def test_maximum_size_may_be_absent_zero_or_at_least_the_minimum(maximum: int | None) -> None:
    """Absent and 0 both mean no limit."""
    config = parse(template(), manager(maximum_size=maximum), {})
    assert config.managers[0].maximum_size == (maximum or 0)


@given(
    st.dictionaries(
        st.sampled_from(
            [f.name for f in pb.InstanceTemplate.DESCRIPTOR.fields if f.type == f.TYPE_STRING]
        ),
        st.text(max_size=70) | st.from_regex(r"[a-z-]*:[a-z:/.]*", fullmatch=True),
    )
)
def test_any_values_are_valid_or_problems_with_lines(values: dict[str, str]) -> None:
    """A problem with a well-formed file has line, subject and field, and prints as one line."""
    for problem in problems_of(template(**values), manager()):
        assert problem.line is not None
        assert problem.subject
        assert problem.field
        assert len(str(problem).splitlines()) == 1


def test_many_problems_are_counted_and_not_all_listed() -> None:
    """The work grows with the text and not with its square; what is told is bounded."""
    text = template(tags=["Same"] * 20_000)
    with pytest.raises(InvalidConfigurationError) as caught:
        parse(text, "", {})
    assert caught.value.total == 20_001
    assert len(caught.value.problems) == 100
    assert str(caught.value).splitlines()[-1] == "and 19901 more"
    assert len(str(caught.value)) < 20_000


@pytest.mark.parametrize("field", [f.name for f in pb.InstanceTemplate.DESCRIPTOR.fields])
@pytest.mark.parametrize("value", ["\x01" * 300_000, "a:" + "9" * 300_000, "é" * 200_000])
def test_a_long_value_is_quoted_in_part(field: str, value: str) -> None:
    """Whatever is wrong with it, and wherever it stands."""
    for text in (template(**{field: value}), template() + value, f'templates {{ {value}: "x" }}'):
        for problem in problems_of(text, manager(zone=value[:5000])):
            assert len(str(problem)) < 1_000
