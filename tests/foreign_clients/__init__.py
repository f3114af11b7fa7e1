"""Clients in other languages and tools, tried for real and outside the suite."""
