"""What is accepted can be carried by all that uses it; what is oversized costs little."""

from __future__ import annotations

import re
import time
import tracemalloc
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gce_backend.configuration import naming
from gce_backend.configuration.parsing import (
    MAX_CONFIG_BYTES,
    MAX_STORED_BYTES,
    examine,
    referenced_files,
)
from gce_backend.configuration.types import Configuration, TemplateConfig, checksum
from gce_backend.fleet.store import encode
from gce_backend.model.entities import InstanceTemplateRevision
from gce_backend.model.keys import manager_key, revision_key
from gce_backend.rules.activation import entities_of, plan_template, wanted_templates
from gce_backend.rules.catalog_entry import Shape, dimensions, policies
from gce_backend.rules.compute_bodies import group_body, template_body
from gce_backend.rules.ownership import Mark
from support.config_texts import manager, template

NAME = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?")
ENTITY_BYTES = 1_048_572
KEY_BYTES = 1_500

odd = st.one_of(
    st.from_regex(r"[a-z]{1,9}-[a-z]{1,9}[0-9]{1,2000}-[a-z]", fullmatch=True),
    st.from_regex(r"[a-z][-a-z0-9:/.@]{0,70}", fullmatch=True),
    st.from_regex(r"[a-z_]{1,12}:[ -~]{0,300}", fullmatch=True),
    st.sampled_from(["", "default", "e2-small", "n2-custom-4-8192", "os_family:LINUX", "pd-ssd"]),
    st.text(max_size=40),
)
fields = st.fixed_dictionaries(
    {},
    optional={
        name: (odd | st.lists(odd, max_size=3) if annotated is not int else st.integers(-5, 70_000))
        for name, annotated in (
            *((f, str) for f in ("base_name", "project", "machine_type", "image_name", "tags")),
            *((f, str) for f in ("dimensions", "metadata", "network_url", "snapshot_name")),
            *((f, str) for f in ("snapshot_labels", "disk_type", "min_cpu_platform")),
            *((f, str) for f in ("image_project", "boot_snapshot_name")),
            ("disk_size_gb", int),
        )
    },
)
places = st.fixed_dictionaries(
    {},
    optional={
        "zone": odd,
        "minimum_size": st.integers(-2, 3000),
        "maximum_size": st.integers(-(2**31), 2**31 - 1),
    },
)


def carry(config: Configuration) -> int:
    """Names, bodies, catalog entries and entities of a configuration; returns how many."""
    wanted = wanted_templates(config, 0.0)
    for name, asked in wanted.items():
        read = entities_of(name, asked, {})
        news = plan_template(name, asked, {}, read)
        for key, entity in news.items():
            stored = sum(len(str(value)) for value in encode(entity).values())
            assert stored < ENTITY_BYTES
            assert len(str(key).encode()) < KEY_BYTES
        revision = revision_key(name, checksum(asked.template))
        body = template_body(Mark("owner"), revision, asked.template, "found")
        assert NAME.fullmatch(body["name"])
        metadata = body["properties"]["metadata"]["items"]
        assert sum(len(f"{i['key']}{i['value']}".encode()) for i in metadata) < 512 * 1024
        for one in asked.managers:
            group = manager_key(name, revision.name, one.zone)
            made = group_body(
                Mark("owner"), group, asked.template.project, one.minimum_size, body["name"]
            )
            assert NAME.fullmatch(made["name"])
            assert len(made["baseInstanceName"]) <= naming.MAX_BASE_INSTANCE_NAME_LENGTH
            assert 0 <= made["targetSize"] <= 2_000
        entry = dimensions(asked.template, f"{body['name']}-host", Shape(2, 4.0), 10)
        account = next((a.name for a in asked.template.service_accounts), "")
        machine = policies(account, "token", 1, "project", "topic")
        assert len(msgspec.json.encode([entry, machine])) < 64_000
    return len(wanted)


@given(template_fields=st.lists(fields, max_size=2), managers=st.lists(places, max_size=2))
@settings(max_examples=150)
def test_line_02_whatever_is_accepted_can_be_carried_out(
    template_fields: list[dict[str, Any]], managers: list[dict[str, Any]]
) -> None:
    """Also of a configuration in which other templates have problems."""
    text = "".join(template(**changes) for changes in template_fields)
    found = examine(text + template(base_name="sound"), "".join(manager(**m) for m in managers), {})
    assert carry(found.configuration) == len(found.configuration.templates)
    names = [one.base_name for one in found.configuration.templates]
    assert "sound" in names or any(
        changes.get("base_name") == "sound" for changes in template_fields
    )
    for one in found.configuration.managers:
        assert one.template_base_name in names


@pytest.mark.parametrize("size", [2_000, 250_000])
def test_line_02_the_largest_metadata_can_be_stored_or_are_refused(size: int) -> None:
    """One file under two keys is stored twice, and quotation marks take two bytes in JSON."""
    text = template(metadata_from_file=["a:x", "b:x"])
    found = examine(text, manager(), {"x": '"' * size})
    assert carry(found.configuration) == (size == 2_000)
    assert found.total == (size != 2_000)
    assert not found.total or "to be stored" in found.problems[0].message


def test_what_an_old_release_stored_can_be_carried_out() -> None:
    """A revision that boots from snapshot_name still does, and has no second disk."""
    old = TemplateConfig(base_name="old", project="p", machine_type="e2-small", snapshot_name="s")
    body = template_body(Mark("owner"), revision_key("old", checksum(old)), old)
    (disk,) = body["properties"]["disks"]
    assert disk["initializeParams"]["sourceSnapshot"].endswith("snapshots/s")
    assert encode(InstanceTemplateRevision(template=old))


@pytest.mark.parametrize(
    ("templates", "managers", "files"),
    [
        ("#" * 10_000_000, "", {}),
        ("", "managers { " * 900_000, {}),
        ('templates { base_name: "' + "a" * 10_000_000, "", {}),
        ("é" * (MAX_CONFIG_BYTES // 2 + 1), "", {}),
        ("", "", {f"f{n}": "x" * 200_000 for n in range(50)}),
    ],
    ids=["comment", "blocks", "string", "two-bytes-each", "files"],
)
def test_line_04_an_oversized_configuration_is_refused_without_being_parsed(
    templates: str, managers: str, files: dict[str, str]
) -> None:
    """10 MB cost next to nothing, and are not quoted."""
    tracemalloc.start()
    before = time.process_time()
    found = examine(templates, managers, files)
    assert referenced_files(templates) == ()
    spent, (_, peak) = time.process_time() - before, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert not found.readable
    assert found.total == 1
    assert len(str(found.problems[0])) < 300
    assert spent < 2.0
    assert peak < 40_000_000
    assert MAX_STORED_BYTES < 2**20
