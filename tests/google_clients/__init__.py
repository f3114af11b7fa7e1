"""Google's own client libraries, unmodified, on a running embedded cloud."""
