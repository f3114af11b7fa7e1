"""What the daemon shows over HTTP: health, metrics, documents, pages, orders.

What may live here: turning what is known into answers. What may not: decisions, and I/O of its own.
"""
