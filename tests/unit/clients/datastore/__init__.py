"""Tests of gce_backend/clients/datastore."""
