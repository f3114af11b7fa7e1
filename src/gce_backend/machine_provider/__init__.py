"""The Machine Provider: a catalog of machines, leases on them, messages about them.

What may live here: a product of its own on `base` and `clients` alone, so that what the embedded
cloud runs can run against Google's Datastore and Pub/Sub as well. What may not: anything that
knows of the daemon, its entities, or the embedded cloud. `wire` has the protocol's values,
`access` who calls and what they may do, `gatekeeper` lets them in, `entities` what is stored,
`rules` the pure decisions, `records` the stored state and the picture of it in memory, `channels`
Pub/Sub, `catalog`, `leases` and `upkeep` the work, and `broker` puts these together. `api` is all
methods as data: a server puts HTTP before it.
"""
