"""The embedded Compute Engine: templates, managed instance groups, their VMs, and operations.

What may live here: the part of Compute's v1 REST surface that the daemon uses, with a real cloud's
behaviour: delays, pages, quotas, stockouts, fingerprints, replayed requestIds. What may not: other
services, and anything that the daemon needs in production.

`service` puts the rest together. `templates`, `groups`, `instances`, `catalogue` and `operations`
answer methods; `machines` is what the cloud does by itself; `store` keeps `rows`; `links`,
`payloads`, `listing`, `filters` and `masks` are Compute's conventions on the wire.
"""

from __future__ import annotations

from gce_backend.localcloud.compute.service import ComputeService

__all__ = ["ComputeService"]
