"""The status page and its documents: over HTTP in simulated time, and in a headless browser."""
