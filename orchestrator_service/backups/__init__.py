"""Backups: one archive of what a team must not lose, taken while it works, and put back into an empty place."""
