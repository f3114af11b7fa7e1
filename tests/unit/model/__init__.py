"""Tests of gce_backend/model."""
