"""GCE Backend keeps fleets of Compute Engine VMs that a Machine Provider leases out.

Folders, from the top down (`docs/architecture.md` lists them; import-linter keeps them apart):
`cli` and `daemon` compose, `loops`, `web`, `setup` and `actions` act and tell, `engine` runs
jobs, `fleet` remembers, `gce_client` and `clients` reach the world, `rules` decides, and `model`,
`configuration`, `settings` and `base` are the words they share. `machine_provider` and
`localcloud` stand beside.
"""


def __getattr__(name: str) -> str:
    """`__version__`, looked up when it is asked for: that takes longer than a command's start."""
    if name != "__version__":
        raise AttributeError(f"module 'gce_backend' has no attribute {name!r}")
    from importlib.metadata import version  # noqa: PLC0415  # see above

    return version("gce-backend")
