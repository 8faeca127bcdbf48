"""Every clause of PROTOCOL.md, as a stranger would check it: over HTTP and in Redis."""
