"""The embedded cloud's Datastore: Firestore in Datastore mode, by its REST surface.

What may live here: Google's semantics of keys, values, versions, commits, transactions and queries.
What may not: anything about the entities that this project stores.
"""

from gce_backend.localcloud.datastore.service import DatastoreService

__all__ = ["DatastoreService"]
