"""Steps that jobs share and that change the world: store the intent, act, store the outcome.

What may live here: steps of more than one job that write entities or call Google. They reach
Google, the store and the scheduler through the context alone. What may not: decisions, which are
in `rules`, and what a single job does.
"""
