"""GCE Backend keeps fleets of Compute Engine VMs that a Machine Provider leases out.

Folders, from the top down (`docs/architecture.md` lists them; import-linter keeps them apart):
`cli` and `daemon` compose, `loops`, `web`, `setup` and `actions` act and tell, `engine` runs
jobs, `fleet` remembers, `gce_client` and `clients` reach the world, `rules` decides, and `model`,
`configuration`, `settings` and `base` are the words they share. `machine_provider` and
`localcloud` stand beside.
"""

from importlib.metadata import version

__version__ = version("gce-backend")
