"""GCE Backend keeps fleets of Compute Engine VMs that a Machine Provider leases out.

Rooms, from the top down (`docs/architecture.md` draws them; import-linter keeps them apart):
`cli` and `app` compose, `scheduler` and `loops` act, `lifecycle` decides, `fleet`, `gce_client`,
`machine_provider`, `pubsub` and `config_source` reach the world, `models`, `config`, `settings` and
`errors` are the words they share.
"""

from importlib.metadata import version

__version__ = version("gce-backend")
