"""Questions of agents to people: where they lie, and the waiting for an answer."""
