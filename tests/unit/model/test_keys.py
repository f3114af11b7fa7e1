"""A path has one key: of one class, equal and of one hash, however it was made."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gce_backend.model.keys import (
    GroupKey,
    Key,
    MachineKey,
    RevisionKey,
    TemplateKey,
    is_misplaced,
    manager_key,
    revision_key,
    template_key,
)
from gce_backend.model.machine_token import instance_token, parse_instance_token
from gce_backend.model.orders import Control, MachineOrder

KINDS = ("InstanceTemplate", "InstanceTemplateRevision", "InstanceGroupManager", "Instance")
CLASSES = (TemplateKey, RevisionKey, GroupKey, MachineKey)
names = st.from_regex(r"[a-z][a-z0-9]{0,8}", fullmatch=True)
paths = st.lists(st.tuples(st.sampled_from((*KINDS, "Control")), names), min_size=1, max_size=5)


@given(st.tuples(names, names, names, names))
def test_a_key_made_in_any_way_is_the_same(parts: tuple[str, str, str, str]) -> None:
    """By its parts, its path, its parent, its token, its stored form, or by putting parents in."""
    base_name, checksum, zone, name = parts
    group = manager_key(base_name, checksum, zone)
    key = group.child(name)
    stored = msgspec.json.encode(Control(machine_orders=(MachineOrder(key, 1.0),)))
    made = [
        key,
        Key.of(tuple(zip(KINDS, parts, strict=True))),
        TemplateKey(KINDS[0], base_name).child(checksum).child(zone).child(name),
        parse_instance_token("project", instance_token("project", key)),
        msgspec.json.decode(stored, type=Control).machine_orders[0].machine,
        msgspec.structs.replace(key, parent=manager_key(base_name, checksum, zone)),
    ]
    assert set(made) == {key}
    for one in made:
        assert isinstance(one, MachineKey)
        assert [type(above) for above in one.lineage] == [*reversed(CLASSES)]
        assert one.lineage == key.lineage
        assert (one.base_name, one.revision.checksum, one.zone, one.name) == parts
        assert (one.template, one.revision, one.group) == (
            template_key(base_name),
            revision_key(base_name, checksum),
            group,
        )
        assert str(one) == "/".join(parts)


@given(paths)
def test_the_path_of_a_key_is_the_one_that_it_was_made_of(path: list[tuple[str, str]]) -> None:
    """Also of paths that lie outside of the templates' tree; and only there a key is misplaced."""
    key = Key.of(tuple(path))
    assert key.path == tuple(path)
    assert key == Key.of(key.path)
    assert hash(key) == hash(Key.of(key.path))
    kinds = tuple(kind for kind, _ in path)
    in_tree = kinds == KINDS[: len(kinds)]
    assert type(key) is (CLASSES[len(kinds) - 1] if in_tree else Key)
    assert is_misplaced(key) == (not in_tree and kinds[-1] in KINDS)


def test_no_key_of_another_class_than_its_path_has_can_be_made() -> None:
    """It would be unequal to the key of that path."""
    group = manager_key("t", "r", "z")
    for wrong in (Key, GroupKey, TemplateKey):
        with pytest.raises(TypeError):
            wrong("Instance", "vm", group)  # type: ignore[arg-type]  # that is the point
    with pytest.raises(TypeError):
        MachineKey("InstanceGroupManager", "z", group)


def test_a_stored_key_is_stored_as_it_always_was() -> None:
    """An order to a machine holds kind, name and parent of each key, down to the root's null."""
    order = MachineOrder(manager_key("t", "r", "z").child("vm"), 1.5)
    assert msgspec.to_builtins(order) == {
        "machine": {
            "kind": "Instance",
            "name": "vm",
            "parent": {
                "kind": "InstanceGroupManager",
                "name": "z",
                "parent": {
                    "kind": "InstanceTemplateRevision",
                    "name": "r",
                    "parent": {"kind": "InstanceTemplate", "name": "t", "parent": None},
                },
            },
        },
        "at": 1.5,
    }
