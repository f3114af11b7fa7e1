"""The list of images: Google's, and those that templates name. Any other exists on demand."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
from aiohttp import web

from gce_backend.localcloud.cloud import Call, Cloud, CloudControl
from gce_backend.localcloud.compute import inventory, links, listing
from gce_backend.localcloud.compute.listing import Names
from gce_backend.localcloud.compute.store import ComputeStore

_PATH = "/_localcloud/images"


class NewestImage(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """That an image is the newest one of its family.

    Attributes:
        family: its name.
        image: the image's name.
        project: of both; "" for the cloud's own.
    """

    family: str
    image: str
    project: str = ""


class Images:
    """The images resource. `PUT /_localcloud/images` gives a family a newer image."""

    def __init__(self, cloud: Cloud, store: ComputeStore) -> None:
        self._cloud = cloud
        self._store = store
        cloud.add_controls(CloudControl("PUT", _PATH, self._put))

    async def _put(self, request: web.Request) -> web.Response:
        try:
            newest = msgspec.json.decode(await request.read(), type=NewestImage)
        except msgspec.DecodeError as error:
            return web.json_response({"error": str(error)}, status=400)
        project = newest.project or self._cloud.options.project
        self._store.newest_images[f"{project}/{newest.family}"] = newest.image
        self._cloud.tables.commit()
        return web.json_response({})

    def get_from_family(self, call: Call) -> dict[str, Any]:
        """The getFromFamily method: the family's newest image."""
        project, family = call.path["project"], call.path["family"]
        newest = self._store.newest_images.get(f"{project}/{family}")
        if newest is None:
            return inventory.image(project, f"family/{family}")
        return inventory.image(project, newest) | {"family": family}

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
