"""Who does the work: Claude Code, any command, or an echo. The dispatcher knows only `base.Agent`."""
