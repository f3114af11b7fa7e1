"""Tests of gce_backend/rules."""
