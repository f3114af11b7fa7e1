"""The Machine Provider: a catalog of machines, leases on them, messages about them.

What may live here: a product of its own on `base` and `clients` alone, so that what the embedded
cloud runs can run against Google's Datastore and Pub/Sub as well. What may not: anything that
knows of the daemon, its entities, or the embedded cloud. `wire` has the protocol's values,
`access` who calls and what they may do, `gatekeeper` lets them in, `entities` what is stored,
`rules` and `queue` the pure decisions, `records` the stored state and the picture of it in memory,
`channels` Pub/Sub, `catalog`, `leases`, `lease_changes` and `upkeep` the work, and `broker` puts
these together. `api` (the original's) and `lease_api` (for people and jobs) are all methods as
data, `leadership` decides whose turn it is, `provider` carries methods out for whoever calls.
`server` and `service` are the command's process, `client` is what programs lease with.
"""
