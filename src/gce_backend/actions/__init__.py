"""What jobs share that changes the world: store the intent, act, store the outcome.

Reaches Google, the store and the scheduler through the context alone.
"""
