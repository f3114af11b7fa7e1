"""Tests of gce_backend/machine_provider/access."""
