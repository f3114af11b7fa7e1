"""Counts and words about the whole fleet that documents, pages and metrics share.

What may live here: what all three share. What may not: JSON, HTML, and anything that changes.
"""
