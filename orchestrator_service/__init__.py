"""The team's side: the `codehornets` command, team files, and the supervisor of local workers."""

from __future__ import annotations


def version() -> str:
    """Return the version of the installed distribution, or 0.0.0 in a checkout that is not installed."""
    from importlib import metadata

    try:
        return metadata.version("codehornets-ai")
    except metadata.PackageNotFoundError:
        return "0.0.0"
