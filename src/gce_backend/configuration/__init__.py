"""templates.cfg and managers.cfg: from text to checked values, with all problems at once.

What may live here: pure functions; texts go in, frozen values or problems come out. What may not:
I/O. Where the texts come from, `clients.config_source` knows.
"""
