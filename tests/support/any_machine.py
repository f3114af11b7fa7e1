"""Machines in any state, for tests of what must hold of each.

Use it with hypothesis.
"""

from __future__ import annotations

from hypothesis import strategies as st

from gce_backend.model.entities import (
    CatalogState,
    Deletion,
    Instance,
    Lease,
    MetadataUpdate,
    PendingDeletion,
    Permit,
)
from gce_backend.model.orders import Cordon, Drain

__all__ = ["INSTANCES"]

UPDATE = MetadataUpdate({"key": "value"})
ASKED = Deletion(Permit.REMOVED, 1.0, 1.0, "id")
DONE = Deletion(Permit.REMOVED, 1.0, 1.0, "id", confirmed=2.0)
SOMETIMES = st.sampled_from([None, None, None, 1.0])
INSTANCES = st.builds(
    Instance,
    missing_since=SOMETIMES,
    stopped_since=SOMETIMES,
    preempted_since=SOMETIMES,
    lost_since=SOMETIMES,
    abandoned_since=SOMETIMES,
    catalog=st.sampled_from([CatalogState.CATALOGED, *CatalogState]),
    lease=st.sampled_from(
        [
            None,
            Lease(since=0.0, expiration=None),
            *(Lease(since=0.0, expiration=end) for end in (5.0, 10.0)),
        ]
    ),
    pending_deletion=st.sampled_from([None, None, PendingDeletion("why", 1.0)]),
    drain=st.sampled_from([None, None, Drain("why", 1.0)]),
    cordon=st.sampled_from([None, None, Cordon("why", 1.0)]),
    pending_metadata_updates=st.sampled_from([(), (), (UPDATE,)]),
    active_metadata_update=st.sampled_from([None, None, UPDATE]),
    deletion=st.sampled_from([None, None, ASKED, DONE]),
)
