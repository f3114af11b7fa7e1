"""What is stored and what was seen: frozen values and their keys.

What may live here: entities, keys, events, orders, observations, and what follows from one value
alone. What may not: I/O, clocks, and decisions, which are in `rules`.

docs/concepts.md is the glossary: machine, VM, member, manager, group and the other terms.
"""
