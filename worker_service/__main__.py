"""`python -m worker_service [NAME]`: one worker, until SIGTERM or SIGINT."""

from __future__ import annotations

import gc
import os
import sys


def main() -> int:
    """Run the worker; returns the exit code: 0 after a clean stop, 2 for a wrong setting."""
    # A start is mostly imports, which make no garbage; and pydantic would read the metadata of every installed
    # distribution in search of plug-ins. Both have to be said before the first import: together a tenth of a second.
    gc.disable()
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    from worker_service.run import main as run_from_environment

    return run_from_environment()


if __name__ == "__main__":
    sys.exit(main())
