"""One worker: it wakes, claims tasks from the queue, hands them to its agents, and shows how it is."""
