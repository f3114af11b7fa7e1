"""End-to-end tests: a daemon and an embedded cloud over real sockets, in simulated time."""
