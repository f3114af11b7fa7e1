"""The daemon's own settings: from file and environment to checked values.

What may live here: types, bounds and defaults, and the reading of one file and the environment,
once, at the start. What may not: what is done with the values.
"""
