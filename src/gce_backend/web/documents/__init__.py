"""The API for programs: JSON documents, orders, metrics.

What may live here: addresses, parameters and the form of answers. What may not: HTML, and
decisions.
"""
