"""The ways on which tasks reach workers and news of them comes back: the shared directory, and Redis."""
