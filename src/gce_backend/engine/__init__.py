"""Runs jobs, and holds what a job is given.

Only `scheduler` knows aiocron.
"""
