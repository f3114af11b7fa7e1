"""Tests of gce_backend/configuration."""
