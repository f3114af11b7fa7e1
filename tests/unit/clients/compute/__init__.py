"""Tests of gce_backend/clients/compute."""
