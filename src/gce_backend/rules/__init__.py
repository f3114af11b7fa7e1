"""Every decision: facts in, decision out.

What may live here: pure functions on frozen values. What may not: I/O and clocks; time is an
argument. No decision follows from an absence, an error or an empty answer.
"""
