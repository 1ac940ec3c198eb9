"""The HTTP API under `/api/v1`: the desk, for programs."""
