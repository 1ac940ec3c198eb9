"""Tasks, results, events and gates by way of Redis, for more than one host."""
