"""templates.cfg and managers.cfg: from text to checked values, with all problems at once.

Pure: texts go in, frozen values or problems come out.
Where the texts come from, `clients.config_source` knows.
"""
