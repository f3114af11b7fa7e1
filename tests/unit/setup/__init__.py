"""Tests of gce_backend/setup."""
