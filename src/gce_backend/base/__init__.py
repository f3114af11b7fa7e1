"""Small words that know nothing of this project: errors, time, tasks, logs.

What may live here: what any asyncio daemon could use; it imports nothing of the project but itself.
What may not: names of Google's services, entities or jobs.
"""
