"""What is prepared and checked before the daemon runs."""
