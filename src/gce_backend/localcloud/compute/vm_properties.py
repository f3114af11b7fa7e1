"""The properties of a VM: its template's, with the additions of its group."""

from __future__ import annotations

from typing import Any

from gce_backend.localcloud.compute.error_replies import constant_id
from gce_backend.localcloud.compute.rows import GroupRow, VmRow
from gce_backend.localcloud.compute.store import ComputeStore


class Blueprints:
    """The properties of managed instances, and of VMs of no group."""

    def __init__(self, store: ComputeStore) -> None:
        self._store = store

    def group(self, vm: VmRow) -> GroupRow:
        """The group of a managed instance."""
        group = self._store.groups.get(vm.group)
        assert group is not None, "a group outlives its members"  # noqa: S101 (kept by drop_group)
        return group

    def properties(self, vm: VmRow) -> dict[str, Any]:
        """The properties of the template that the VM is made from."""
        if vm.properties is not None:
            return vm.properties
        template = self._store.templates.get(self.group(vm).template)
        assert template is not None, "a template outlives its groups"  # noqa: S101 (checked on delete)
        return template.properties

    def template(self, vm: VmRow) -> str:
        """The key of the template of a managed instance's VM, present or next."""
        return vm.template or self.group(vm).template

    def labels(self, vm: VmRow) -> dict[str, str]:
        """The VM's labels."""
        if vm.labels is not None:
            return vm.labels
        labels: dict[str, str] = self.properties(vm).get("labels", {})
        return labels | self._overlay(vm, "labels")

    def metadata(self, vm: VmRow) -> list[dict[str, str]]:
        """The VM's metadata items: those that were set, or those of template and group."""
        if vm.metadata is not None:
            return vm.metadata
        items = self.properties(vm)["metadata"].get("items", [])
        values = {item["key"]: item.get("value", "") for item in items}
        values |= self._overlay(vm, "metadata") | (vm.preserved or {})
        values |= _made_by(self.group(vm), self.template(vm))
        return [{"key": key, "value": value} for key, value in values.items()]

    def own(self, vm: VmRow) -> dict[str, Any]:
        """The properties that a VM keeps whatever its group does, labels included."""
        return self.properties(vm) | {"labels": self.labels(vm)}

    def _overlay(self, vm: VmRow, part: str) -> dict[str, str]:
        """What the group adds to the template's labels or metadata."""
        config = self.group(vm).settings.get("allInstancesConfig", {}) if vm.group else {}
        added: dict[str, str] = config.get("properties", {}).get(part, {})
        return added


def _made_by(group: GroupRow, template_key: str) -> dict[str, str]:
    """The metadata items that name a managed instance's group and template."""
    number = constant_id(f"projects/{group.project}")[:12]
    owner, _, template = template_key.partition("/")
    template_number = constant_id(f"projects/{owner}")[:12]
    return {
        "instance-template": f"projects/{template_number}/global/instanceTemplates/{template}",
        "created-by": f"projects/{number}/zones/{group.zone}/instanceGroupManagers/{group.name}",
    }
