"""rules.facets: what jobs act on has a facet by which they find it."""

from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from gce_backend.model.entities import (
    CatalogState,
    Deletion,
    Instance,
    Lease,
    PendingDeletion,
    Permit,
)
from gce_backend.model.orders import DrainCause
from gce_backend.rules.cataloging import CATALOGABLE, may_be_cataloged
from gce_backend.rules.facets import Facet, facets_of, is_offered, is_swept
from gce_backend.rules.melt_down import lost_for
from gce_backend.rules.permits import awaits_drain, lease_runs, permit
from gce_backend.rules.sightings import is_lost, is_unexplained, news_for_lessee
from gce_backend.rules.surplus import is_idle, is_on_its_way_out
from support.any_machine import INSTANCES


@given(INSTANCES, st.floats(0, 12))
def test_whatever_a_job_acts_on_has_a_facet_by_which_the_job_finds_it(
    instance: Instance, now: float
) -> None:
    """A machine without the facet is not looked at: it must be none of the job's."""
    facets = facets_of(instance)

    def elapsed(since: float) -> float:
        return now - since

    if permit(instance, now) is not None:
        assert facets & {Facet.LEAVING, Facet.UNCATALOGED}
    if is_on_its_way_out(instance) and not instance.is_tombstone:
        assert facets & {Facet.LEAVING, Facet.TROUBLED, Facet.UNCATALOGED}
    for active in (True, False):
        if awaits_drain(instance, elapsed, 1.0, active=active):
            assert facets & {Facet.UNCATALOGED, Facet.TROUBLED}
    if is_lost(instance, elapsed, 1.0) and may_be_cataloged(instance):
        assert Facet.TROUBLED in facets
    if news_for_lessee(instance, elapsed) is not None and lease_runs(instance, now):
        assert Facet.TROUBLED in facets
    if is_unexplained(instance) and instance.lease is not None:
        assert Facet.TROUBLED in facets
    if lost_for(instance, elapsed) is not None:
        assert Facet.TROUBLED in facets
    if instance.catalog in CATALOGABLE and not instance.is_tombstone:
        assert Facet.UNCATALOGED in facets
    if lease_runs(instance, now) and not instance.is_tombstone:
        assert Facet.LEASED in facets
    befallen = {Facet.LEAVING, Facet.TROUBLED, Facet.UNCATALOGED, Facet.DELETED}
    idle = instance.catalog is CatalogState.CATALOGED and is_idle(instance, now)
    if instance.abandoned_since is None:  # such a machine is missing, too
        assert idle == (not facets & befallen and not lease_runs(instance, now))
    did_not_come_up = instance.drain is not None and instance.drain.cause is DrainCause.BOOT
    assert (Facet.NOT_UP in facets) == did_not_come_up
    assert (Facet.DELETED in facets) == instance.is_tombstone
    assert (Facet.NOT_OFFERED in facets) == (not instance.is_tombstone and not is_offered(instance))
    assert (Facet.NOT_SWEPT in facets) == (not instance.is_tombstone and not is_swept(instance))


def test_a_machine_that_serves_has_no_facet_but_its_lease() -> None:
    """Most machines are such: an absent one, too, has none."""
    assert facets_of(None) == facets_of(Instance(catalog=CatalogState.CATALOGED)) == frozenset()
    leased = Instance(catalog=CatalogState.CATALOGED, lease=Lease(since=0.0, expiration=None))
    assert facets_of(leased) == {Facet.LEASED}


def test_a_reclaimed_machine_is_no_trouble_once_it_is_deleted() -> None:
    """Tombstones stay for an hour: a busy pool has many, which no job has to look at."""
    reclaimed = PendingDeletion("The Machine Provider has reclaimed it.", since=1.0)
    deletion = Deletion(Permit.RECLAIMED, requested=2.0, asked=2.0, request_id="id", confirmed=4.0)
    gone = Instance(missing_since=3.0, pending_deletion=reclaimed, deletion=deletion)
    assert Facet.TROUBLED not in facets_of(gone)
    assert Facet.TROUBLED in facets_of(msgspec.structs.replace(gone, missing_since=0.5))
    assert Facet.TROUBLED in facets_of(msgspec.structs.replace(gone, pending_deletion=None))
