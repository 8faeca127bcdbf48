"""The inference worker: claims sessions, runs them on a model, appends their bytes to the log."""
