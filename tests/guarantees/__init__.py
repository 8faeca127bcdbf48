"""The promises of PROTOCOL.md's table of guarantees, proven on real processes that are broken."""
