"""`python -m orchestrator_service.container ROLE`: the entry point of the container images."""

from __future__ import annotations

import sys

from orchestrator_service.container.entry import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
