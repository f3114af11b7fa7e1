"""What is prepared and checked before the daemon runs.

What may live here: the steps of `setup`, `configure`, `validate` and `doctor`, each with its
outcome and remedy. What may not: jobs, and how a terminal shows an outcome.
"""
