"""Tests of src/gce_backend/loops."""
