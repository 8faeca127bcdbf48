"""One module for each dialect that clients speak: request in, generation request out. Pure."""
