"""What the daemon remembers between runs."""

from __future__ import annotations

from gce_backend.fleet.memory import SeenAtCompute
from gce_backend.model.entities import InstanceGroupManager
from gce_backend.model.keys import TemplateKey
from gce_backend.model.observed import Group


def test_what_was_listed_of_a_group_that_another_daemon_deleted_is_forgotten() -> None:
    """Else a machine of it counted as listed for ever, and its deletion was taken back."""
    revision = TemplateKey("InstanceTemplate", "linux").child("c")
    here, deleted, unknown = (revision.child(zone) for zone in ("a", "b", "c"))
    seen = SeenAtCompute()
    for key in (here, deleted, unknown):
        seen.groups[key] = Group(target_size=1, stable=True, signature="", changed=0.0)
        seen.grown[key] = 1.0
    seen.forget(
        {
            here: InstanceGroupManager(minimum_size=1, url="u"),
            deleted: InstanceGroupManager(minimum_size=1),
        }
    )
    assert seen.groups.keys() == {here}
    assert seen.grown.keys() == {here, deleted}
