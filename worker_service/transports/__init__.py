"""The ways by which tasks come: files in a shared directory, and Redis."""
