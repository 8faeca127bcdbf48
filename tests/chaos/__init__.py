"""A machine that tries to break the guarantees: a seed is a plan, an oracle says what broke."""
