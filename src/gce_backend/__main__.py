"""`python -m gce_backend` is the `gce-backend` command."""

from gce_backend.cli import main

main()
