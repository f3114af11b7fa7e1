"""Tests of gce_backend/settings."""
