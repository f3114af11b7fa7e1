"""Tests of gce_backend/web/survey."""
