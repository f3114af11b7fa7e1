"""Tests of src/gce_backend/actions."""
