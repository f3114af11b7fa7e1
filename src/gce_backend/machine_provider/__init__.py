"""The Machine Provider: a catalog of machines, leases on them, messages about them.

What may live here: a product of its own on `base` and `clients` alone, so that what the embedded
cloud runs can run against Google's Datastore and Pub/Sub as well. What may not: anything that
knows of the daemon, its entities, or the embedded cloud. `wire` has the protocol's values, `access`
identifies callers and decides what they may do, and `gatekeeper` lets them in. `entities` has what
is stored, `records` the stored state with its picture in memory, `rules`, `queue` and `waiting` the
pure decisions, `channels` Pub/Sub. `catalog`, `leases`, `lease_changes` and `upkeep` do the work,
and `broker` puts these together. `api` (the original's) and `lease_api` (for people and jobs, with
`lease_documents`) hold all methods as data, and `provider` carries methods out; in a process that
does not work, `standby` answers reads. `server`, `service`, `metrics` and `access_file` are the
command's process; `client` is for programs that lease.
"""
