"""Keys of the stored entities: kind and name, under a parent's key.

What a template describes lies in a tree of four kinds, and each kind has a class of its own:

    TemplateKey > RevisionKey > GroupKey > MachineKey

Each path has one class, and a key of another class cannot be created. So keys with the same path
are always equal.
"""

from __future__ import annotations

import msgspec


class Key(msgspec.Struct, frozen=True, gc=False):
    """A Datastore key: a kind and a name, under a parent's key.

    Attributes:
        kind: the entity's kind, e.g. `Instance`.
        name: unique among the kind's entities under the same parent.
        parent: the key above; None for a root.

    Raises:
        TypeError: its kind, under such a parent, has another class.
    """

    kind: str
    name: str
    parent: Key | None = None

    def __post_init__(self) -> None:
        if type(self) is not _class_of(self.kind, self.parent):
            raise TypeError(f"{self}: {type(self).__name__} is not the class of this path")

    @property
    def path(self) -> tuple[tuple[str, str], ...]:
        """(kind, name) pairs, root first."""
        above = self.parent.path if self.parent is not None else ()
        return (*above, (self.kind, self.name))

    @property
    def lineage(self) -> tuple[Key, ...]:
        """This key and its parents: they decide whether a manager or revision is active."""
        return (self, *(self.parent.lineage if self.parent is not None else ()))

    @property
    def base_name(self) -> str:
        """The name of the root key: the template's base_name."""
        return self.lineage[-1].name

    @property
    def zone(self) -> str:
        """The zone of a group or a VM; "" for other entities."""
        return ""

    @staticmethod
    def of(path: tuple[tuple[str, str], ...]) -> Key:
        """The key with that path, of the class of that path.

        Raises:
            ValueError: the path is empty.
        """
        key: Key | None = None
        for kind, name in path:
            key = _class_of(kind, key)(kind, name, key)
        if key is None:
            raise ValueError("a key's path has at least one element")
        return key

    def __str__(self) -> str:
        return "/".join(name for _, name in self.path)


class TemplateKey(Key, frozen=True, gc=False):
    """The key of an InstanceTemplate: its name is the template's base_name."""

    parent: None = None

    def child(self, checksum: str) -> RevisionKey:
        """The key of this template's revision with that checksum."""
        return RevisionKey("InstanceTemplateRevision", checksum, self)


class RevisionKey(Key, frozen=True, gc=False):
    """The key of an InstanceTemplateRevision: its name is the revision's checksum."""

    parent: TemplateKey

    @property
    def template(self) -> TemplateKey:
        """The template that it is a revision of."""
        return self.parent

    @property
    def checksum(self) -> str:
        """The checksum of the revision's fields."""
        return self.name

    def child(self, zone: str) -> GroupKey:
        """The key of this revision's group in that zone."""
        return GroupKey("InstanceGroupManager", zone, self)


class GroupKey(Key, frozen=True, gc=False):
    """The key of an InstanceGroupManager: its name is the group's zone."""

    parent: RevisionKey

    @property
    def template(self) -> TemplateKey:
        """The template above."""
        return self.parent.parent

    @property
    def revision(self) -> RevisionKey:
        """The revision that the group's VMs are made of."""
        return self.parent

    @property
    def zone(self) -> str:
        """Where the group is."""
        return self.name

    def child(self, name: str) -> MachineKey:
        """The key of this group's VM of that name."""
        return MachineKey("Instance", name, self)


class MachineKey(Key, frozen=True, gc=False):
    """The key of an Instance: its name is the VM's name."""

    parent: GroupKey

    @property
    def template(self) -> TemplateKey:
        """The template above."""
        return self.parent.parent.parent

    @property
    def revision(self) -> RevisionKey:
        """The revision that the VM is made of."""
        return self.parent.parent

    @property
    def group(self) -> GroupKey:
        """The group that the VM is a member of."""
        return self.parent

    @property
    def zone(self) -> str:
        """Where the VM is."""
        return self.parent.name

    @property
    def log_fields(self) -> dict[str, str]:
        """The fields by which every log line about the VM names it."""
        return {"instance": self.name, "template": self.base_name, "zone": self.zone}


_CLASSES: dict[tuple[str, type[Key | None]], type[Key]] = {
    ("InstanceTemplate", type(None)): TemplateKey,
    ("InstanceTemplateRevision", TemplateKey): RevisionKey,
    ("InstanceGroupManager", RevisionKey): GroupKey,
    ("Instance", GroupKey): MachineKey,
}
"""The class of a key, by its kind and the class of its parent; every other key is a Key."""


def _class_of(kind: str, parent: Key | None) -> type[Key]:
    return _CLASSES.get((kind, type(parent)), Key)


def is_misplaced(key: Key) -> bool:
    """Whether a key's kind belongs to the tree of templates, but the key is not in that tree."""
    return type(key) is Key and any(kind == key.kind for kind, _ in _CLASSES)


def template_key(base_name: str) -> TemplateKey:
    """The key of an InstanceTemplate."""
    return TemplateKey("InstanceTemplate", base_name)


def revision_key(base_name: str, checksum: str) -> RevisionKey:
    """The key of an InstanceTemplateRevision."""
    return template_key(base_name).child(checksum)


def manager_key(base_name: str, checksum: str, zone: str) -> GroupKey:
    """The key of an InstanceGroupManager."""
    return revision_key(base_name, checksum).child(zone)
