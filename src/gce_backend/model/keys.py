"""Keys of the stored entities: kind and name, under a parent's key."""

from __future__ import annotations

import msgspec


class Key(msgspec.Struct, frozen=True, gc=False):
    """A Datastore key: a kind and a name, under a parent's key.

    Attributes:
        kind: the entity's kind, e.g. `Instance`.
        name: unique among the kind's entities under the same parent.
        parent: the key above; None for a root.
    """

    kind: str
    name: str
    parent: Key | None = None

    @property
    def path(self) -> tuple[tuple[str, str], ...]:
        """(kind, name) pairs, root first."""
        above = self.parent.path if self.parent is not None else ()
        return (*above, (self.kind, self.name))

    @property
    def lineage(self) -> tuple[Key, ...]:
        """This key and those above it: what says whether a manager or revision is active."""
        return (self, *(self.parent.lineage if self.parent is not None else ()))

    @property
    def base_name(self) -> str:
        """The name of the root above: of all that is a template's, its base_name."""
        return self.lineage[-1].name

    @property
    def zone(self) -> str:
        """Where a group or a VM is; "" of all that has no zone."""
        names = (key.name for key in self.lineage if key.kind == "InstanceGroupManager")
        return next(names, "")

    @staticmethod
    def of(path: tuple[tuple[str, str], ...]) -> Key:
        """The key with that path.

        Raises:
            ValueError: the path is empty.
        """
        key: Key | None = None
        for kind, name in path:
            key = Key(kind, name, key)
        if key is None:
            raise ValueError("a key's path has at least one element")
        return key

    def __str__(self) -> str:
        return "/".join(name for _, name in self.path)


def template_key(base_name: str) -> Key:
    """The key of an InstanceTemplate."""
    return Key("InstanceTemplate", base_name)


def revision_key(base_name: str, checksum: str) -> Key:
    """The key of an InstanceTemplateRevision."""
    return Key("InstanceTemplateRevision", checksum, template_key(base_name))


def manager_key(base_name: str, checksum: str, zone: str) -> Key:
    """The key of an InstanceGroupManager."""
    return Key("InstanceGroupManager", zone, revision_key(base_name, checksum))


def instance_key(manager: Key, name: str) -> Key:
    """The key of an Instance."""
    return Key("Instance", name, manager)
