"""The Machine Provider: a catalog of machines, leases on them, messages about them.

A service on the Datastore and Pub/Sub clients, so that what the embedded cloud runs can run against
Google's as well. `wire` has the protocol's values, `entities` what is stored, `rules` the pure
decisions, `records` the stored state and the picture of it in memory, `channels` Pub/Sub,
`catalog`, `leases` and `lifecycle` the work, `broker` puts these together, and `service` puts the
broker into the embedded cloud. Nothing here but `service` may import from the rest of `localcloud`.
"""

from gce_backend.localcloud.machine_provider.service import MachineProviderService

__all__ = ["MachineProviderService"]
