"""`python -m orchestrator_service`: the orchestrator of a team."""

from __future__ import annotations

import sys

from orchestrator_service.run import main

if __name__ == "__main__":
    sys.exit(main())
