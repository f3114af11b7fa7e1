"""What is stored and what was seen: frozen values and their keys.

What may live here: entities, keys, events, orders, observations, and what follows from one value
alone. What may not: I/O, clocks, and decisions, which are in `rules`.

The words, and no others for these things:

machine: what is leased; one Instance entity and its VM.
VM: what runs at Compute Engine. A machine whose VM is gone is a tombstone.
member: a VM as its group lists it.
manager: so many machines of a revision in a zone, as the configuration asks for them.
group: the managed instance group at Compute Engine that a manager stands for.
picture: all entities as the daemon holds them in memory (`fleet.picture`).
fleet: all machines of a project and owner label.
Machine Provider: the service that leases machines. catalog: its list of machines.
condition: what a job cannot go on with at a subject, with its reason.
problem: what people are shown: a condition, a mistake in the configuration, a held order.
"""
