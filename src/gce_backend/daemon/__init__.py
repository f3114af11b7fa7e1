"""Wires one process together, and stops it in order.

What may live here: which client, store and job gets which, and the order of start and stop. What
may not: decisions, and what a command says.
"""
