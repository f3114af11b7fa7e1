"""Tests of gce_backend/engine."""
