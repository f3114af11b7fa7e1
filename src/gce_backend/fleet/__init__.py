"""What the daemon knows and remembers, and the only writer of Datastore.

What may live here: the picture of all entities, what was seen at Compute Engine, conditions,
history, and how they are stored. What may not: decisions, and calls to other services.
"""
