"""The embedded cloud: a faithful, persistent stand-in for what the daemon talks to, over HTTP.

What may live here: servers of wire protocols (Compute Engine, Datastore, Pub/Sub, the metadata
server, LUCI Config), each a module with one class that has `routes()`; the frame they stand in
(`cloud`), their durable tables (`tables`), injected faults (`faults`) and call counts. What may
not: anything that the daemon needs in production. Nothing outside this package imports it but the
commands and the demo.
"""
