"""`python -m deploy.local`."""

from __future__ import annotations

import os
import sys

from deploy.local.arguments import parse
from deploy.local.launcher import launch


def main() -> int:
    """Runs the launcher with this process's arguments and environment; the exit status."""
    return launch(parse(sys.argv[1:], os.environ))


if __name__ == "__main__":
    sys.exit(main())
