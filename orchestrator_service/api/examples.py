"""What requests and answers look like, for the description of the API; a test checks them against the models."""

from __future__ import annotations

from typing import Any, Final

TASK_ORDER: Final = {
    "description": "Write three slogans for the spring sale. Answer with one a line.",
    "title": "Slogans",
    "role": "marketing",
    "priority": "high",
    "timeout": 600,
    "retry": {"max_retries": 2},
}

GRAPH_ORDER: Final = {
    "title": "Spring sale",
    "tasks": [
        {"key": "slogans", "role": "marketing", "description": "Write three slogans for the spring sale."},
        {
            "key": "page",
            "worker": "anga",
            "dependencies": ["slogans"],
            "description": "Put the best of these slogans on the page: {{results.slogans.output}}",
        },
    ],
}

GOAL_ORDER: Final = {"goal": "Prepare the spring sale: slogans, a page and a mail.", "max_tasks": 12, "timeout": 1800}

SCHEDULE_ORDER: Final = {
    "name": "morning-report",
    "cron": "0 7 * * 1-5",
    "timezone": "Europe/Berlin",
    "task": {"description": "Summarize what was sold yesterday.", "role": "analyst"},
}

CANCEL_ORDER: Final = {"reason": "not needed any more"}

_SUBMITTED: Final = "2026-03-02T09:00:00.120000Z"

TASK_SUMMARY: Final[dict[str, Any]] = {
    "task_id": "task-7f3a9c",
    "title": "Slogans",
    "state": "ready",
    "waits_for": {"kind": "slot", "message": "All places at marie are taken."},
    "worker": None,
    "route": {"worker": None, "role": "marketing", "skills": []},
    "priority": 75,
    "dependencies": 0,
    "unmet": 0,
    "tries": 0,
    "graph_id": None,
    "goal_id": None,
    "schedule": None,
    "parent": None,
    "depth": 0,
    "origin": "api",
    "submitted_by": "shop",
    "submitted_at": _SUBMITTED,
    "ready_at": _SUBMITTED,
    "next_at": None,
    "sent_at": None,
    "started_at": None,
    "ended_at": None,
    "deadline": None,
    "cancel_requested_at": None,
    "cost_usd": None,
    "error": None,
}

_ENDED: Final = {
    **TASK_SUMMARY,
    "state": "completed",
    "waits_for": None,
    "worker": "marie",
    "tries": 1,
    "sent_at": "2026-03-02T09:00:00.123000Z",
    "started_at": "2026-03-02T09:00:00.127000Z",
    "ended_at": "2026-03-02T09:00:09.400000Z",
    "cost_usd": 0.0132,
}

_CANCELLED: Final = {
    **TASK_SUMMARY,
    "state": "cancelled",
    "waits_for": None,
    "ended_at": "2026-03-02T09:00:04Z",
    "cancel_requested_at": "2026-03-02T09:00:04Z",
    "error": {"kind": "cancelled", "message": "not needed any more"},
}

TASK_RECORD: Final = {
    **_ENDED,
    "description": TASK_ORDER["description"],
    "needs": [],
    "order": TASK_ORDER,
    "runs": [
        {
            "number": 1,
            "wire_id": "task-7f3a9c",
            "worker": "marie",
            "transport": "file",
            "sent_at": "2026-03-02T09:00:00.123000Z",
            "started_at": "2026-03-02T09:00:00.127000Z",
            "ended_at": "2026-03-02T09:00:09.400000Z",
            "status": "completed",
            "session_id": "2f0c1f0e-5d0b-4a57-9d0e-0d6f2a3b4c5d",
            "attempts": 1,
            "reserved_usd": 0.5,
            "cost_usd": 0.0132,
            "error": None,
            "event_position": 5120,
        }
    ],
}

SUBMISSION: Final = {"graph_id": None, "tasks": [TASK_SUMMARY], "repeated": False}
TASK_PAGE: Final = {"tasks": [_ENDED], "next_cursor": None}
WAITED: Final = [_ENDED]
CANCELLED: Final = _CANCELLED
RETRIED: Final = {**TASK_SUMMARY, "tries": 1}

TASK_RESULT: Final = {
    "task_id": "task-7f3a9c",
    "state": "completed",
    "result": {
        "task_id": "task-7f3a9c",
        "worker": "marie",
        "instance": "marie-1",
        "status": "completed",
        "output": "Spring is on sale.\nFresh prices.\nBloom for less.",
        "session_id": "2f0c1f0e-5d0b-4a57-9d0e-0d6f2a3b4c5d",
        "attempts": 1,
        "num_turns": 1,
        "cost_usd": 0.0132,
        "queued_at": "2026-03-02T09:00:00.123000Z",
        "started_at": "2026-03-02T09:00:00.127000Z",
        "completed_at": "2026-03-02T09:00:09.400000Z",
        "duration_seconds": 9.273,
        "timestamp": "2026-03-02T09:00:09.400000Z",
    },
    "error": None,
}

WORKER: Final[dict[str, Any]] = {
    "name": "marie",
    "role": "marketing",
    "skills": ["copy", "german"],
    "state": "up",
    "status": "busy",
    "paused": False,
    "heartbeat_age_seconds": 3.2,
    "slots": 5,
    "in_flight": 1,
    "max_in_flight": 10,
    "waiting": 0,
    "transport": "file",
    "spent_today_usd": 1.27,
    "reserved_usd": 0.5,
    "budget_usd": 20.0,
    "open_questions": 1,
    "instances": [
        {
            "instance": "marie-1",
            "transport": "file",
            "status": "busy",
            "timestamp": "2026-03-02T09:00:05Z",
            "age_seconds": 3.2,
            "alive": True,
            "current_tasks": ["task-7f3a9c"],
            "slots": 5,
            "mode": "hybrid",
            "agent": "claude",
            "version": "0.4.0",
            "http_port": 8080,
            "parked_until": None,
            "stuck_tasks": [],
        }
    ],
}
TOLD: Final = {"worker": {**WORKER, "state": "paused", "paused": True}, "told": True}

SCHEDULE: Final[dict[str, Any]] = {
    "name": "morning-report",
    "cron": "0 7 * * 1-5",
    "timezone": "Europe/Berlin",
    "task": SCHEDULE_ORDER["task"],
    "overlap": "skip",
    "missed": "once",
    "paused": False,
    "next_at": "2026-03-03T06:00:00Z",
    "last_at": None,
    "last_task_id": None,
    "last_outcome": None,
    "created_by": "admin",
    "created_at": _SUBMITTED,
}

GOAL: Final[dict[str, Any]] = {
    "goal_id": "goal-51c2",
    "goal": GOAL_ORDER["goal"],
    "state": "running",
    "submitted_by": "shop",
    "submitted_at": _SUBMITTED,
    "ended_at": None,
    "session_id": "7a1d9f6c-1b2c-4d3e-8f4a-5b6c7d8e9f00",
    "output": None,
    "error": None,
    "task_ids": ["goal-51c2.1", "goal-51c2.2"],
    "max_tasks": 12,
    "max_depth": 3,
    "timeout": 1800.0,
    "max_budget_usd": None,
    "agent_cost_usd": 0.04,
    "cost_usd": 0.11,
    "metadata": {},
}
CANCELLED_GOAL: Final = {**GOAL, "state": "cancelled", "ended_at": "2026-03-02T09:10:00Z"}

QUESTION: Final[dict[str, Any]] = {
    "question_id": "q-3f9a1c2b7d4e5f60",
    "task_id": "task-7f3a9c",
    "worker": "marie",
    "tool": "Bash",
    "input": {"command": "npm publish", "description": "Publish the package"},
    "summary": "Bash: npm publish",
    "asked_because": None,
    "policy": "deny",
    "asked_at": "2026-03-02T09:00:04Z",
    "expires_at": "2026-03-02T09:05:04Z",
    "state": "open",
    "decision": None,
    "answered_by": None,
    "answered_at": None,
    "reason": None,
    "unreachable": None,
}
APPROVED_QUESTION: Final = {
    **QUESTION,
    "state": "allowed",
    "decision": "allow",
    "answered_by": "anna",
    "answered_at": "2026-03-02T09:01:10Z",
}
DENIED_QUESTION: Final = {
    **QUESTION,
    "state": "denied",
    "decision": "deny",
    "answered_by": "anna",
    "answered_at": "2026-03-02T09:01:10Z",
    "reason": "not on a Friday",
}
ANSWER_ORDER: Final = {"reason": "not on a Friday"}

BUDGET: Final = {
    "day": "2026-03-02",
    "limit_usd": 50.0,
    "spent_usd": 3.4,
    "reserved_usd": 0.5,
    "task_limit_usd": 0.5,
    "worker_limit_usd": 20.0,
}
INVARIANTS: Final = [
    {
        "name": "running_has_owner",
        "holds": True,
        "violations": 0,
        "examples": [],
        "checked_at": "2026-03-02T09:00:30Z",
    }
]
COUNTS: Final = {"ready": 2, "running": 1, "completed": 40}

STREAM: Final = (
    "retry: 1000\n\n"
    "id: 41\n"
    "event: task_ended\n"
    'data: {"event": "task_ended", "timestamp": "2026-03-02T09:00:09.401Z", "task_id": "task-7f3a9c", '
    '"worker": "marie", "goal_id": null, "data": {"state": "completed"}}\n\n'
)

LATEST_EVENTS: Final = [
    {
        "id": "41",
        "event": "task_ended",
        "timestamp": "2026-03-02T09:00:09.401Z",
        "task_id": "task-7f3a9c",
        "title": "Three slogans",
        "worker": "marie",
        "goal_id": None,
        "data": {"state": "completed"},
    }
]

FIELD_ERROR: Final = {
    "field": "tasks[3].retry.factor",
    "value": 99,
    "message": "Should be less than or equal to 10.",
}
