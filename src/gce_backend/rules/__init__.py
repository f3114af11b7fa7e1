"""Every decision: facts in, decision out. No I/O and no clock: time is an argument.

No decision follows from an absence, an error or an empty answer.
"""
