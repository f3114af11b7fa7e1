"""Tests of gce_backend/fleet."""
