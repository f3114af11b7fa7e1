"""Tests of gce_backend/support."""
