"""The list of images: Google's, and those that templates name. Any other exists on demand."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from gce_backend.localcloud.cloud import Call
from gce_backend.localcloud.compute import inventory, links, listing
from gce_backend.localcloud.compute.listing import Names
from gce_backend.localcloud.compute.store import ComputeStore


class Images:
    """The images resource."""

    def __init__(self, store: ComputeStore) -> None:
        self._store = store

    def list_page(self, call: Call) -> dict[str, Any]:
        """The list method."""
        project = call.path["project"]
        named = (inventory.image(project, reference) for reference in self._references(project))
        images = {image["name"]: image for image in named}
        found = listing.page(call, Names(images).after, images.get)
        return listing.resource_list(
            "compute#imageList", f"projects/{project}/global/images", found
        )

    def _references(self, project: str) -> Iterator[str]:
        """What Google offers in the project, and its images in the templates of all projects."""
        yield from (f"family/{family}" for family in inventory.image_families(project))
        for template in self._store.templates.values():
            for disk in template.properties["disks"]:
                link = disk["initializeParams"].get("sourceImage")
                reference = links.parse(link, "images", "sourceImage") if link else None
                if reference is not None and reference.project == project:
                    yield reference.name
