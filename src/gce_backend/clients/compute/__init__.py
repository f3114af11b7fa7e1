"""How Compute is called: links, types, errors, call budget, transport.

`gce_client` has the calls.
"""
