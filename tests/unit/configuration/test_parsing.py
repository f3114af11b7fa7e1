"""templates.cfg and managers.cfg: how they are read, and the values that they become."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gce_backend.configuration.parsing import parse, referenced_files
from gce_backend.configuration.problems import InvalidConfigurationError, Problem
from gce_backend.configuration.proto import config_pb2 as pb
from gce_backend.configuration.text import LineIndex
from gce_backend.configuration.types import Configuration, ManagerConfig, TemplateConfig
from support.config_texts import (
    FULL,
    manager,
    outcome,
    printed,
    problems_of,
    template,
    templates_strategy,
)

ROOT = Path(__file__).parents[3]


def test_all_problems_of_both_files_are_told_at_once_in_order() -> None:
    """An operator mends everything in one go."""
    templates = template(disk_type="x", tags=["A"], project=None) + template(base_name="B")
    found = problems_of(templates, manager(minimum_size=-1, zone="z") + manager(zone=None))
    places = [(problem.file, problem.line) for problem in found]
    assert len(found) == 7
    assert places == sorted(places, key=lambda place: (place[0] != "templates.cfg", place[1]))


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("templates {\n  base_nam: 'x'\n}", 2, "base_nam"),
        ("templates {\n  disk_size_gb: 'x'\n}", 2, "integer"),
        ("\ntemplates {\n", 2, "}"),
        ("templates { disk_size_gb: 99999999999 }", 1, "range"),
    ],
)
def test_syntax_error_is_told_with_its_line(text: str, line: int, says: str) -> None:
    """Unknown fields, wrong types, and unbalanced braces, where they stand."""
    (problem,) = problems_of(text)
    assert (problem.file, problem.line, problem.subject, problem.field) == (
        "templates.cfg",
        line,
        "",
        "",
    )
    assert says in problem.message
    assert referenced_files(text) == ()


def test_unreadable_templates_do_not_hide_managers_problems() -> None:
    """Both files are checked, without blaming managers for templates that could not be read."""
    found = problems_of("nonsense", manager(minimum_size=-1))
    assert [(p.file, p.field) for p in found] == [
        ("templates.cfg", ""),
        ("managers.cfg", "minimum_size"),
    ]


def test_problem_reads_like_a_compilers() -> None:
    """Editors find the place, people the remedy."""
    problem = Problem("templates.cfg", 12, 'template "a"', "disk_type", '"x" is not one of y')
    assert str(problem) == 'templates.cfg:12: template "a": disk_type: "x" is not one of y'
    assert str(Problem("managers.cfg", None, "", "", "is gone")) == "managers.cfg: is gone"


def test_lines_are_found_in_every_way_of_writing() -> None:
    """Lists, angle brackets, comments, adjacent and misleading strings, signs, separators."""
    lines = LineIndex(
        "# templates {\n"
        "templates: <\n"
        "  tags: ['a',\n"
        "    'b'] ;\n"
        '  metadata: "k:}"\n'
        "    'more # {' # }\n"
        "  disk_size_gb: -\n"
        "    5,\n"
        "  service_accounts: [{ name: 'a' },\n"
        "   { scopes: 'b' scopes:\n"
        "     'c' }]\n"
        ">\n"
        "templates { base_name: 'it\\'s' project: 'p' }"
    )
    found = {
        ("templates", 0): 2,
        ("templates", 0, "tags", 0): 3,
        ("templates", 0, "tags", 1): 4,
        ("templates", 0, "metadata", 0): 5,
        ("templates", 0, "disk_size_gb"): 7,
        ("templates", 0, "service_accounts", 0, "name"): 9,
        ("templates", 0, "service_accounts", 1): 10,
        ("templates", 0, "service_accounts", 1, "scopes", 1): 10,
        ("templates", 1, "project"): 13,
        ("templates", 1, "zone"): 13,
    }
    assert {path: lines.find(path) for path in found} == found
    assert lines.find(("managers", 0)) is None


def test_every_field_reaches_the_parsed_value() -> None:
    """No field of the language is lost, the texts of files included."""
    assert {f.name for f in pb.InstanceTemplate.DESCRIPTOR.fields} == {
        f.name for f in msgspec.structs.fields(TemplateConfig)
    }
    assert {f.name for f in pb.InstanceGroupManager.DESCRIPTOR.fields} == {
        f.name for f in msgspec.structs.fields(ManagerConfig)
    }
    unset = [f.name for f in msgspec.structs.fields(FULL) if getattr(FULL, f.name) == f.default]
    assert unset == ["image_name", "image_family"]  # they cannot be beside boot_snapshot_name
    family = parse(template(image_name=None, image_family="debian-12"), "", {}).templates[0]
    assert (family.image_name, family.image_family) == ("", "debian-12")
    config = Configuration(
        (FULL,),
        (
            ManagerConfig(
                template_base_name="full", minimum_size=1, maximum_size=2, zone="us-central1-c"
            ),
        ),
    )
    assert parse(*printed(config), {"scripts/a:b.sh": "#!/bin/sh\n"}) == config
    assert config.minimum_total == 1


def test_a_manager_of_several_zones_is_one_for_each() -> None:
    """They share its sizes, which count once."""
    zones = ("us-central1-a", "us-central1-b")
    text = manager(zone=None, zones=list(zones), minimum_size=5, maximum_size=9)
    config = parse(template(), text, {})
    assert [(one.zone, one.zones) for one in config.managers] == [(zone, zones) for zone in zones]
    assert config.minimum_total == 5
    twice = manager(zone=None, zones=["us-central1-a", "us-central1-a"])
    [problem] = problems_of(template(), twice)
    assert problem.field == "zones[1]"
    assert "already uses template" in problem.message


def test_referenced_files_are_named_once_and_only_inside_the_config_set() -> None:
    """A path that leaves the config set is never fetched."""
    text = template(metadata_from_file=["a:x.sh", "b:d/y:z", "bad", "c:../up", "d:/abs"])
    assert referenced_files(text + template(metadata_from_file=["a:x.sh"])) == ("x.sh", "d/y:z")


@given(
    templates=st.lists(templates_strategy, max_size=3, unique_by=lambda t: t.base_name),
    one_line=st.booleans(),
    data=st.data(),
)
@settings(max_examples=60)
def test_printed_configuration_is_parsed_to_the_same(
    templates: list[TemplateConfig], one_line: bool, data: st.DataObject
) -> None:
    """Whatever the values, parsing what was printed gives them back."""
    managers = [
        ManagerConfig(
            template_base_name=value.base_name,
            minimum_size=data.draw(st.integers(1, 2000)),
            zone=zone,
        )
        for value in templates
        for zone in data.draw(st.sampled_from([[], ["us-east1-b"], ["us-east1-b", "asia-east1-a"]]))
    ]
    config = Configuration(tuple(templates), tuple(managers))
    assert parse(*printed(config, one_line=one_line), {}) == config


FRAGMENTS = [
    *"{}<>[]:,;-#\n",
    *(f.name for f in pb.InstanceTemplate.DESCRIPTOR.fields),
    *(f.name for f in pb.InstanceGroupManager.DESCRIPTOR.fields),
    *("templates", "managers", "templates {", "managers {", "service_accounts {", "name:"),
    *(
        '"a"',
        "'b:c'",
        '"\\xff"',
        '"\\uD800"',
        "'\\",
        '"',
        "1",
        "-0x7",
        "99999999999",
        "true",
        "nan",
    ),
    *("[type.googleapis.com/x.Y] {", "\x00", "é", "\ufeff"),
]
garbage = st.lists(st.sampled_from(FRAGMENTS) | st.text(max_size=3), max_size=40).map(" ".join)


@given(templates=garbage | st.text(), managers=garbage)
@settings(max_examples=300)
def test_any_text_is_a_configuration_or_a_list_of_problems(templates: str, managers: str) -> None:
    """No text, however broken, raises anything but the one error."""
    referenced_files(templates)
    found = outcome(templates, managers, {})
    if isinstance(found, InvalidConfigurationError):
        assert found.problems
        assert all(len(str(problem).splitlines()) == 1 for problem in found.problems)


def test_compiled_messages_match_their_definition(tmp_path: Path) -> None:
    """What is checked in is what `make proto` makes."""
    proto = Path("src/gce_backend/configuration/proto")
    command = ["-m", "grpc_tools.protoc", "--proto_path=src", f"--python_out={tmp_path}"]
    subprocess.run(
        [
            sys.executable,
            *command,
            f"--pyi_out={tmp_path}",
            str(proto / "config.proto"),
        ],
        cwd=ROOT,
        check=True,
    )
    for name in ("config_pb2.py", "config_pb2.pyi"):
        made = tmp_path / proto.relative_to("src") / name
        assert made.read_bytes() == (ROOT / proto / name).read_bytes(), name


def test_field_numbers_are_the_ones_that_files_and_services_know() -> None:
    """Numbers never change."""

    def numbers(message: Any) -> dict[str, int]:
        return {field.name: field.number for field in message.DESCRIPTOR.fields}

    order = (
        "base_name project dimensions image_name disk_size_gb service_accounts tags metadata "
        "machine_type image_project network_url auto_assign_external_ip min_cpu_platform "
        "metadata_from_file disk_type snapshot_name snapshot_labels"
    )
    ours = numbers(pb.InstanceTemplate)
    first = {n: i for i, n in enumerate(order.split(), 1)}
    assert {name: ours.pop(name) for name in first} == first
    assert all(number >= 100 for number in ours.values())
    order = "template_base_name minimum_size maximum_size zone"
    assert numbers(pb.Schedule) == {
        "days": 1,
        "start": 2,
        "end": 3,
        "time_zone": 4,
        "minimum_size": 5,
        "maximum_size": 6,
        "spare_size": 7,
    }
    ours = numbers(pb.InstanceGroupManager)
    first = {n: i for i, n in enumerate(order.split(), 1)}
    assert {name: ours.pop(name) for name in first} == first
    assert all(number >= 100 for number in ours.values())
    assert numbers(pb.ServiceAccount) == {"name": 1, "scopes": 2}
    assert numbers(pb.InstanceTemplateConfig) == {"templates": 1}
    assert numbers(pb.InstanceGroupManagerConfig) == {"managers": 1}
    assert numbers(pb.SettingsCfg) == {"enable_ts_monitoring": 1, "mp_server": 2}
