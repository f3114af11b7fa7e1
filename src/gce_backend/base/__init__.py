"""Small words that know nothing of this project: errors, time, tasks, logs.

Imports nothing of the project but itself.
"""
