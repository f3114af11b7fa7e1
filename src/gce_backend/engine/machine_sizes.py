"""The sizes of machines and disks: from the type's name, else from Compute, once."""

from __future__ import annotations

from gce_backend.configuration.types import TemplateConfig
from gce_backend.gce_client import ComputeClient
from gce_backend.rules.catalog_entry import Shape, custom_shape


class ComputeSizes:
    """Sizes read from Compute, each asked for once."""

    def __init__(self, compute: ComputeClient) -> None:
        self._compute = compute
        self._shapes: dict[tuple[str, str, str], Shape] = {}
        self._disks: dict[tuple[str, str], int] = {}

    async def shape(self, template: TemplateConfig, zone: str) -> Shape:
        """A machine's CPUs and memory.

        Args:
            template: names the machine type.
            zone: where; a type is a zone's resource.

        Raises:
            NotFoundError: the zone has no such machine type.
            RemoteError: Compute could not be asked.
        """
        computed = custom_shape(template.machine_type)
        if computed is not None:
            return computed
        key = (template.project, zone, template.machine_type)
        if key not in self._shapes:
            found = await self._compute.get_machine_type(*key)
            self._shapes[key] = Shape(found.guest_cpus, found.memory_mb / 1024)
        return self._shapes[key]

    async def disk_gb(self, template: TemplateConfig) -> int:
        """The boot disk's size in GB.

        Args:
            template: states the size, or names the image or snapshot that determines it.

        Raises:
            NotFoundError: there is no such image or snapshot.
            RemoteError: Compute could not be asked.
        """
        if template.disk_size_gb:
            return template.disk_size_gb
        project, snapshot_name = template.source_project, template.boot_snapshot
        key = (project, template.image_name or f"snapshot {snapshot_name}")
        if key not in self._disks:
            if snapshot_name:
                snapshot = await self._compute.get_snapshot(project, snapshot_name)
                self._disks[key] = snapshot.disk_size_gb
            else:
                image = await self._compute.get_image(project, template.image_name)
                self._disks[key] = image.disk_size_gb
        return self._disks[key]
