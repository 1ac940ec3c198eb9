"""Goals: a Claude session that delegates to the team until it has an answer."""
