"""The embedded cloud: persistent servers of the services that the daemon calls, over HTTP.

What may live here: servers of wire protocols (Compute Engine, Datastore, Pub/Sub, the metadata
server, LUCI Config), each a module with one class that has `routes()`; the frame of these services
(`cloud`), their durable tables (`tables`), injected faults (`faults`) and call counts. What may
not: anything that the daemon needs in production. Only the commands, the demo and a local run
    import this package.
"""
