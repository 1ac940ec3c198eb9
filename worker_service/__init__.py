"""One worker: it wakes, claims tasks from the queue, hands them to its agents, and shows how it is."""

from importlib import metadata

try:
    VERSION = metadata.version("codehornets-ai")
except metadata.PackageNotFoundError:  # run from a checkout that is not installed
    VERSION = "0.0.0"
