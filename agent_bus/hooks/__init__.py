"""Claude Code's hooks as events, and the rules that turn them into triggers and log lines."""
