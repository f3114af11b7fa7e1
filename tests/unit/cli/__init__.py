"""Tests of gce_backend/cli."""
