"""Tests with real processes, real time and real signals."""
