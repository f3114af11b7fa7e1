"""A simulator that attacks the daemon: one process, simulated time, no sockets, one seed.

`loop` runs everything in an exact order, `network` carries the bytes, `chance` makes every random
number follow from the seed, `world` holds daemons, cloud and users, `events` is what happens to
them, `faults` what happens to calls, `oracle` judges, `rows` counts the faults of safety.md,
`episode` lives one seed, `nightly` lives many, `shrink` makes a failing one short, `crashes` ends
the process at every await, and `holes` plants known mistakes to see whether they are found.
docs/testing.md says how it is used. Nothing here knows the rules of the code under test.
"""
