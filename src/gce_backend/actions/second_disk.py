"""Finding the snapshot of a second disk that a template names by labels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from msgspec.structs import replace

from gce_backend.base.dates import timestamp
from gce_backend.base.errors import NotFoundError, TransientError
from gce_backend.clients.compute.types import PartialListing, Snapshot
from gce_backend.engine.context import Context
from gce_backend.fleet.picture import Change, when_present
from gce_backend.model.entities import InstanceTemplateRevision
from gce_backend.model.keys import RevisionKey

METHOD = "compute.snapshots.list"


async def find_snapshot(
    context: Context, key: RevisionKey, revision: InstanceTemplateRevision
) -> str | None:
    """The name of the newest snapshot that has a template's labels, chosen once for a revision.

    The choice is stored before it is used, so that a creation that is repeated asks for the same.
    Another is chosen only when that snapshot no longer exists.

    Returns:
        None when the template has no second disk, or names its snapshot.

    Raises:
        NotFoundError: no snapshot has the labels.
        RemoteError: Compute could not be asked.
    """
    labels, project = revision.template.sought_labels, revision.template.project
    if not labels:
        return None
    found = await context.compute.list_snapshots(project, _filter(labels))
    if isinstance(found, PartialListing):
        raise TransientError(METHOD, "; ".join(found.reasons))
    names = _newest_first(found.items, labels)
    if revision.snapshot in names:
        return revision.snapshot
    if not names:
        words = ", ".join(f"{key}:{value}" for key, value in labels.items())
        message = f"no snapshot of {project} that is ready has the labels {words}"
        raise NotFoundError(METHOD, message, reason="notFound")
    chosen = names[0]

    def apply(entity: InstanceTemplateRevision) -> InstanceTemplateRevision:
        return replace(entity, snapshot=chosen)

    await context.fleet.change([Change(key, when_present(apply))])
    return chosen


def _filter(labels: Mapping[str, str]) -> str:
    terms = (
        f'(labels.{key} = "{value}")' if value else f"(labels.{key}:*)"
        for key, value in labels.items()
    )
    return " AND ".join(terms)


def _newest_first(snapshots: Iterable[Snapshot], labels: Mapping[str, str]) -> list[str]:
    fitting = [s for s in snapshots if s.status == "READY" and labels.items() <= s.labels.items()]
    fitting.sort(key=lambda s: (timestamp(s.creation_timestamp), s.name), reverse=True)
    return [snapshot.name for snapshot in fitting]
