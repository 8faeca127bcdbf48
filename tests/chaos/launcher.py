"""`python -m tests.chaos.launcher`: the launcher, with some environment for each child alone.

So that each has its own way to Redis, and one of them another clock.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace

from deploy.local.arguments import Options, parse
from deploy.local.commands import Command, cluster_commands
from deploy.local.launcher import launch

CHILDREN = "CHAOS_CHILDREN"
"""JSON: the environment of each child by its name."""


def commands(options: Options, redis_url: str) -> list[Command]:
    """As the launcher has them, each with what is its own."""
    own = json.loads(os.environ[CHILDREN])
    return [
        replace(command, environment={**command.environment, **own.get(command.name, {})})
        for command in cluster_commands(options, redis_url)
    ]


if __name__ == "__main__":
    sys.exit(launch(parse(sys.argv[1:], os.environ), commands))
