"""Mutated configurations, answers and requests by the hundred thousand: `make fuzz`."""
