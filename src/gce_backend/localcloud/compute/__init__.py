"""The embedded Compute Engine: templates, managed instance groups, their VMs, and operations.

What may live here: the part of Compute's v1 REST surface that the daemon uses, with a real cloud's
behaviour: delays, pages, quotas, stockouts, fingerprints, replayed requestIds. What may not: other
services, and anything that the daemon needs in production.

`service` puts the rest together. `templates`, `groups`, `instance_groups`, `instances`, `disks`,
`images`, `catalogue`, `regions` and `operations` answer methods; `machines` is what the cloud does
by itself, from `blueprints` and `vm_disks`, within what `usage` leaves; `store` keeps `rows`;
`quota` counts calls; `description` is what Google says of the methods, on which `payloads`,
`masks`, `filters` and `listing` stand; `links` and `replies` are Compute's other conventions.
"""

from __future__ import annotations

from gce_backend.localcloud.compute.service import ComputeService

__all__ = ["ComputeService"]
