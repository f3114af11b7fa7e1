"""How Compute Engine is called: links, types, errors, call budget, transport.

What may live here: what all calls share. What may not: the calls themselves, which `gce_client`
has.
"""
