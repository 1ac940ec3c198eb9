"""The team's side: the `codehornets` command, team files, and the supervisor of local workers."""
