"""What both services speak: messages, the shared directory, queues. Imports neither service."""

VERSION = "0.1.0"
"""Of the distribution: bus and services are released together."""
