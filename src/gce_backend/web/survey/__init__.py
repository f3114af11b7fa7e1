"""Counts and words about the whole fleet that documents, pages and metrics share.

What may live here: what all three say, once. What may not: JSON, HTML, and anything that changes.
"""
