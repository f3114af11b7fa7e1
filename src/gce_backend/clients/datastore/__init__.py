"""The Datastore client: plain JSON through gcloud-aio-datastore, typed values, guarded commits.

What may live here: keys, values, queries and commits of any entities. What may not: the kinds
that this project stores, which `fleet.store` knows.
"""
