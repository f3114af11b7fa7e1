"""Runs jobs, and provides what they need.

What may live here: the scheduler, the context and what is in it. Only `scheduler` knows aiocron.
What may not: what a particular job does.
"""
