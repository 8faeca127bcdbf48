"""What the API nodes and the inference workers share: session records, the session log, leases.

Nothing here knows HTTP, a dialect's request format or a model; nothing outside knows a Redis key.
"""
