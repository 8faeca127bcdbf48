"""`python -m deploy.local`: a whole cluster on one machine, kept alive until it is told to stop.

It starts Redis, workers and nodes as child processes and restarts what dies. It must not know what
flows between them: a child is a command line, an environment and a log.
"""
