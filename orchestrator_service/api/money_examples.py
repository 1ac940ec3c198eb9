"""What use, series and gates look like, for the description of the API; a test checks them against the models."""

from __future__ import annotations

from typing import Any, Final

_SUMS: Final = {
    "tasks": 41,
    "tries": 43,
    "cost_usd": 3.4,
    "notional_cost_usd": 1.2,
    "input_tokens": 8100,
    "output_tokens": 52_000,
    "cache_read_tokens": 1_900_000,
    "cache_creation_tokens": 240_000,
}
USAGE: Final[dict[str, Any]] = {
    "rows": [{"key": "2026-03-02", "label": "2026-03-02", **_SUMS}],
    "total": _SUMS,
    "budget": {
        "day": "2026-03-02",
        "limit_usd": 50.0,
        "spent_usd": 3.4,
        "reserved_usd": 0.5,
        "left_usd": 46.1,
        "workers": [{"worker": "marie", "limit_usd": 20.0, "spent_usd": 1.27, "reserved_usd": 0.5, "left_usd": 18.23}],
    },
}
SERIES: Final[dict[str, Any]] = {
    "step_seconds": 600.0,
    "times": ["2026-03-02T09:00:00Z", "2026-03-02T09:10:00Z"],
    "completed": [12, 0],
    "failed": [1, 0],
    "p50_seconds": [8.2, None],
    "p95_seconds": [40.1, None],
    "p99_seconds": [61.0, None],
    "error_rate": [0.076923, None],
    "queue_depth": [4, 0],
    "running": [2, 0],
    "cost_usd": [0.84, 0.0],
    "notional_cost_usd": [0.84, 0.0],
}
GATE: Final[dict[str, Any]] = {
    "gate_id": "5b1d7e0c9f3a2468",
    "kind": "five_hour",
    "message": "the usage limit is used up",
    "worker": "marie",
    "closed_at": "2026-03-02T09:00:09Z",
    "until": "2026-03-02T11:00:00Z",
    "parked_tasks": 3,
    "workers": ["anga", "marie"],
}
