"""Our engine beside llama-server's: the same model, threads, slots and prompts."""
