"""Identifies callers of the Machine Provider, and decides what they may do.

What may live here: from a token to an identity (`access_tokens`, `identity_tokens`, `issuer_keys`,
put together in `verifier`), from access.cfg to a policy (`parsing`, `policy`), and the pure
decision between the two (`decision`). What may not: machines, leases, and HTTP servers.
"""
