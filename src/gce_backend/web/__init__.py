"""What the daemon shows over HTTP: health, metrics, documents, pages, orders.

What may live here: answers made from what the daemon knows. What may not: decisions, and I/O of its
own.
"""
