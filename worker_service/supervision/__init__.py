"""Watches running tasks by signals that cost nothing, and answers in stages when several say that one is stuck.

`limits` says when, `repeated_calls` and `idle_clock` each know one signal, `watch` judges one task, `supervisor` keeps
the timer and acts. Nothing here knows of Claude Code: an agent shows its signs of life (`agents.base.LifeSigns`).
"""
