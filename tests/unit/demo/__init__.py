"""Tests of gce_backend/demo."""
