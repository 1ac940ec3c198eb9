"""Where a task works: in its workspace, or in a worktree of its own."""
