"""Wires one process together, and stops it in order."""
