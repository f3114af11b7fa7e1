"""Counts and words about the whole fleet that documents, pages and metrics share."""
