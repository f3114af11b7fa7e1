"""The embedded Compute Engine: templates, managed instance groups, their VMs, and operations.

What may live here: the part of Compute's v1 REST surface that the daemon uses, with a real cloud's
behaviour: delays, pages, quotas, stockouts, fingerprints, replayed requestIds. What may not: other
services, and anything that the daemon needs in production.

`service` puts the rest together. `templates`, `groups`, `group_members`, `instance_groups`,
`instances`, `disks`, `snapshots`, `images`, `inventory`, `regions`, `operations` and `batch` answer
methods, with `vm_views` and `zonal_lists`. `machines` is the life of VMs, from `vm_properties` and
`vm_disks`, within what `capacity` and `usage` leave, on the `timetable`; `vm_events` are people's.
`store` keeps `rows`; `quota` counts calls; `permissions` names what a method needs. `description`
is Google's description of the methods, which `request_checks`, `masks`, `filters` and `listing`
use; `links` and `error_replies` are Compute's other conventions.
"""

from __future__ import annotations

from gce_backend.localcloud.compute.service import ComputeService

__all__ = ["ComputeService"]
