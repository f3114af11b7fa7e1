"""What the daemon knows and remembers, and the only writer of Datastore."""
