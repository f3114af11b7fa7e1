"""Tests of gce_backend/base."""
