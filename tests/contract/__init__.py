"""What our clients expect of a server, whichever it is."""
