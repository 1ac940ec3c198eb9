"""Worktrees of tasks: their names and records, how one is made, what is left in it, and which may go."""
