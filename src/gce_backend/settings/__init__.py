"""The daemon's own settings: from file and environment to checked values.

Reads one file and the environment, once, at the start.
Knows nothing of what is done with the values.
"""
