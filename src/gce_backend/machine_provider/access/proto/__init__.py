"""The language of access.cfg, compiled: edit access.proto, then `make proto`."""
