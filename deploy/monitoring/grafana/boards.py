"""Writes the boards: `python deploy/monitoring/grafana/boards.py`. It makes what is in dashboards/; a test compares.

A board is a list of rows, and a row a heading and its panels. Whatever a query names must be exported by a service or
recorded by a rule; tests/integration/test_monitoring.py asks a real Prometheus every one of them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

FOLDER: Final = Path(__file__).resolve().parent / "dashboards"
RUNBOOK: Final = "https://github.com/codehornets/codehornets-ai/blob/main/docs/troubleshooting.md"

_SOURCE: Final = {"type": "prometheus", "uid": "${datasource}"}
_COLUMNS: Final = 24
_WORKERS: Final = 'job="codehornets-workers"'
_ONE: Final = 'worker=~"$worker"'
_ORCHESTRATOR: Final = 'job="codehornets-orchestrator"'
_NO: Final = {"type": "value", "options": {"0": {"text": "no", "color": "red"}, "1": {"text": "yes", "color": "green"}}}


@dataclass
class Panel:
    """One picture: queries by legend. `{{label}}` in a legend is Grafana's own."""

    title: str
    queries: dict[str, str]
    unit: str = "short"
    kind: str = "timeseries"
    width: int = 8
    about: str = ""
    limits: tuple[float, ...] = ()
    """Values from which the colour is orange, then red."""
    yes_or_no: bool = False
    stacked: bool = False
    instant: bool = False


@dataclass
class Board:
    """One dashboard."""

    uid: str
    title: str
    about: str
    rows: dict[str, list[Panel]]
    of_one_worker: bool = False
    tags: list[str] = field(default_factory=lambda: ["codehornets"])


def _stat(title: str, query: str, unit: str = "short", **more: Any) -> Panel:
    return Panel(title, {title: query}, unit, kind="stat", width=4, **more)


def _quantiles(metric: str, where: str = "", by: str = "le") -> dict[str, str]:
    inside = f"{{{where}}}" if where else ""
    rate = f"sum by ({by}) (rate({metric}_bucket{inside}[$__rate_interval]))"
    return {f"p{int(100 * quantile)}": f"histogram_quantile({quantile}, {rate})" for quantile in (0.5, 0.95, 0.99)}


TEAM = Board(
    "codehornets-team",
    "codehornets: team",
    "All workers at a glance: do they live, does work flow, does it succeed.",
    {
        "Now": [
            _stat("Workers ready", "sum(codehornets_ready)", limits=(), about="Those that would take a task now."),
            _stat("Tasks waiting", "sum(worker:codehornets_queue_depth:max)", limits=(50, 100)),
            _stat("Tasks running", "sum(codehornets_tasks_in_flight)"),
            _stat(
                "Failed, of 15 minutes",
                "max(worker:codehornets_tasks_failed:ratio15m)",
                "percentunit",
                limits=(0.02, 0.05),
            ),
            _stat("Held back by a limit", "max(codehornets_parked_seconds)", "s", limits=(1,)),
            _stat("Spent today", 'sum(codehornets_orchestrator_budget_usd{kind="spent"})', "currencyUSD"),
        ],
        "Alerts": [
            Panel(
                "Firing",
                {"": 'ALERTS{alertname=~"Codehornets.*", alertstate="firing"}'},
                kind="table",
                width=24,
                instant=True,
                about=f"What to do about each: {RUNBOOK}",
            ),
        ],
        "Life": [
            Panel(
                "Age of the last heartbeat",
                {"{{worker}}": "time() - max by (worker) (codehornets_heartbeat_timestamp_seconds)"},
                "s",
                limits=(30, 60),
            ),
            Panel(
                "Ready", {"{{worker}}": "max by (worker) (codehornets_ready)"}, kind="state-timeline", yes_or_no=True
            ),
            Panel("As the orchestrator sees them", {"{{state}}": "codehornets_orchestrator_workers"}, stacked=True),
        ],
        "Flow": [
            Panel(
                "Tasks that ended",
                {"{{status}}": "sum by (status) (worker:codehornets_tasks:rate5m)"},
                "ops",
                stacked=True,
            ),
            Panel("Tasks that wait", {"{{worker}}": "worker:codehornets_queue_depth:max"}, limits=(100,)),
            Panel("Tasks that run", {"{{worker}}": "sum by (worker) (codehornets_tasks_in_flight)"}, stacked=True),
            Panel(
                "From arrival to prompt",
                {
                    "mean {{worker}}": "worker:codehornets_task_queue_seconds:mean5m",
                    "p95 {{worker}}": "worker:codehornets_task_queue_seconds:p95_5m",
                },
                "s",
                limits=(0.5,),
            ),
            Panel("How long tasks take", {"mean {{worker}}": "worker:codehornets_task_duration_seconds:mean5m"}, "s"),
            Panel(
                "Failed, of 15 minutes",
                {"{{worker}}": "worker:codehornets_tasks_failed:ratio15m"},
                "percentunit",
                limits=(0.05,),
            ),
        ],
        "Trouble": [
            Panel(
                "Dead letters in 15 minutes",
                {"{{worker}} {{reason}}": "worker:codehornets_dead_letters:increase15m > 0"},
            ),
            Panel("Held back by a limit", {"{{worker}}": "max by (worker) (codehornets_parked_seconds)"}, "s"),
            Panel(
                "Questions that wait for a person",
                {
                    "{{worker}}": "sum by (worker) (codehornets_questions_open)",
                    "in the inbox": "sum(codehornets_orchestrator_questions_open)",
                },
                about="What agents ask: the dashboard's inbox, or `codehornets questions`.",
            ),
            Panel(
                "How long the oldest has waited",
                {
                    "{{worker}}": "max by (worker) (codehornets_question_age_seconds)",
                    "in the inbox": "max(codehornets_orchestrator_question_age_seconds)",
                },
                "s",
                limits=(150, 900),
            ),
            Panel(
                "Of a question's time, used",
                {"{{worker}}": "max by (worker) (codehornets_question_time_used_ratio)"},
                "percentunit",
                limits=(0.5, 0.9),
                about="When it is over the question's policy decides.",
            ),
            Panel(
                "Polls for want of something better",
                {"{{worker}}": "max by (worker) (instance:codehornets_fallbacks:standing)"},
            ),
            Panel(
                "Redis answers",
                {"{{worker}}": "min by (worker) (codehornets_redis_connected)"},
                kind="state-timeline",
                yes_or_no=True,
            ),
            Panel(
                "CPU, of what each may use",
                {"{{worker}}": "instance:codehornets_cpu:ratio5m"},
                "percentunit",
                limits=(0.8,),
            ),
            Panel("Memory of the services", {"{{instance}}": f"process_resident_memory_bytes{{{_WORKERS}}}"}, "bytes"),
        ],
    },
)

WORKER = Board(
    "codehornets-worker",
    "codehornets: one worker",
    "Everything that a worker tells of itself.",
    {
        "Now": [
            _stat("Ready", f"min(codehornets_ready{{{_ONE}}})", yes_or_no=True),
            _stat("Tasks waiting", f"max(codehornets_queue_depth{{{_ONE}}})", limits=(50, 100)),
            _stat("Tasks running", f"sum(codehornets_tasks_in_flight{{{_ONE}}})"),
            _stat(
                "Last heartbeat",
                f"time() - max(codehornets_heartbeat_timestamp_seconds{{{_ONE}}})",
                "s",
                limits=(30, 60),
            ),
            _stat("Last probe", f"max(codehornets_probe_age_seconds{{{_ONE}}})", "s", limits=(120, 180)),
            _stat("Held back by a limit", f"max(codehornets_parked_seconds{{{_ONE}}})", "s", limits=(1,)),
        ],
        "Health": [
            Panel(
                "Parts of /readyz",
                {"{{part}}": f"min by (part) (codehornets_part_well{{{_ONE}}})"},
                kind="state-timeline",
                width=12,
                yes_or_no=True,
            ),
            Panel(
                "Redis answers",
                {"{{instance}}": f"codehornets_redis_connected{{{_ONE}}}"},
                kind="state-timeline",
                width=12,
                yes_or_no=True,
            ),
        ],
        "Tasks": [
            Panel(
                "Tasks that ended",
                {"{{status}}": f"sum by (status) (rate(codehornets_tasks_total{{{_ONE}}}[$__rate_interval]))"},
                "ops",
                stacked=True,
            ),
            Panel("From arrival to prompt", _quantiles("codehornets_task_queue_seconds", _ONE), "s", limits=(0.5,)),
            Panel("From claim to result", _quantiles("codehornets_task_duration_seconds", _ONE), "s"),
            Panel(
                "Waiting and running",
                {
                    "waiting": f"max(codehornets_queue_depth{{{_ONE}}})",
                    "running": f"sum(codehornets_tasks_in_flight{{{_ONE}}})",
                },
            ),
            Panel("Dead letters", {"{{reason}}": f"sum by (reason) (codehornets_dead_letters_total{{{_ONE}}})"}),
            Panel(
                "Results",
                {
                    "came second": f"sum(increase(codehornets_results_refused_total{{{_ONE}}}[$__rate_interval]))",
                    "failed attempts to store": f"sum(increase(codehornets_result_retries_total{{{_ONE}}}[$__rate_interval]))",
                },
            ),
        ],
        "How it is woken": [
            Panel(
                "Who rings the bell",
                {"{{source}}": f"sum by (source) (rate(codehornets_wakeups_total{{{_ONE}}}[$__rate_interval]))"},
                "ops",
            ),
            Panel("Fall-backs", {"{{from}} to {{to}}": f"sum by (from, to) (codehornets_fallbacks_total{{{_ONE}}})"}),
            Panel(
                "Triggers that were no tasks",
                {"events": f"sum(rate(codehornets_trigger_events_total{{{_ONE}}}[$__rate_interval]))"},
                "ops",
            ),
        ],
        "Agents": [
            Panel("Processes", {"{{state}}": f"sum by (state) (codehornets_agent_processes{{{_ONE}}})"}, stacked=True),
            Panel(
                "CPU",
                {
                    "agents": f"sum(rate(codehornets_agent_cpu_seconds_total{{{_ONE}}}[$__rate_interval]))",
                    "service": f"sum(rate(process_cpu_seconds_total{{{_WORKERS}}}[$__rate_interval]) and on (job, instance) codehornets_ready{{{_ONE}}})",
                    "allowed": f"sum(codehornets_cpus{{{_ONE}}})",
                },
                about="In CPUs.",
            ),
            Panel(
                "Memory of the service",
                {
                    "{{instance}}": f"process_resident_memory_bytes{{{_WORKERS}}} and on (job, instance) codehornets_ready{{{_ONE}}}"
                },
                "bytes",
            ),
            Panel(
                "Tokens",
                {"{{type}}": f"sum by (type) (rate(codehornets_agent_tokens_total{{{_ONE}}}[$__rate_interval]))"},
                "ops",
            ),
            Panel(
                "Cost of an hour",
                {"{{worker}}": f"worker:codehornets_agent_cost_usd:increase1h{{{_ONE}}}"},
                "currencyUSD",
            ),
            Panel(
                "Tasks given back because of a limit",
                {"{{kind}}": f"sum by (kind) (codehornets_tasks_parked_total{{{_ONE}}})"},
            ),
        ],
        "Hooks, pipes and Redis": [
            Panel(
                "Hook events",
                {"{{event}}": f"sum by (event) (rate(codehornets_hook_events_total{{{_ONE}}}[$__rate_interval]))"},
                "ops",
            ),
            Panel(
                "Hook events that no hook told",
                {
                    "filled in: {{event}}": f"sum by (event) (codehornets_hook_events_filled_in_total{{{_ONE}}})",
                    "dropped": f"sum(codehornets_hook_events_dropped_total{{{_ONE}}})",
                },
            ),
            Panel(
                "Hook rules and requests that failed",
                {
                    "rule {{rule}}": f"sum by (rule) (codehornets_hook_rule_failures_total{{{_ONE}}})",
                    "refused: {{reason}}": f"sum by (reason) (codehornets_hook_requests_refused_total{{{_ONE}}})",
                },
            ),
            Panel(
                "Commands",
                {
                    "{{command}} by {{source}}": f"sum by (command, source) (codehornets_control_commands_total{{{_ONE}}})",
                    "no command, by {{source}}": f"sum by (source) (codehornets_control_errors_total{{{_ONE}}})",
                },
            ),
            Panel(
                "Lines of the status pipe that nobody took",
                {"{{reason}}": f"sum by (reason) (rate(codehornets_pipe_drops_total{{{_ONE}}}[$__rate_interval]))"},
                "ops",
                about="no_reader is harmless; with slow_reader somebody reads and misses lines.",
            ),
            Panel(
                "Redis",
                {
                    "lost": f"sum(codehornets_redis_losses_total{{{_ONE}}})",
                    "messages dropped": f"sum(codehornets_redis_drops_total{{{_ONE}}})",
                },
            ),
        ],
    },
    of_one_worker=True,
)

ORCHESTRATOR = Board(
    "codehornets-orchestrator",
    "codehornets: orchestrator",
    "What was handed in, where it is, and how the API answers.",
    {
        "Now": [
            _stat("Answers", f"max(up{{{_ORCHESTRATOR}}})", yes_or_no=True),
            _stat("Ledger can be written", "min(codehornets_orchestrator_ledger_writable)", yes_or_no=True),
            _stat(
                "Last heartbeat",
                "time() - max(codehornets_orchestrator_heartbeat_timestamp_seconds)",
                "s",
                limits=(30, 60),
            ),
            _stat("Rules broken", "sum(codehornets_orchestrator_invariant_violations)", limits=(1, 1)),
            _stat("Open tasks", 'sum(codehornets_orchestrator_tasks{state=~"blocked|scheduled|ready|sent|running"})'),
            _stat("Followers of events", "sum(codehornets_orchestrator_sse_clients)"),
        ],
        "Tasks": [
            Panel(
                "Open tasks, by state",
                {"{{state}}": 'codehornets_orchestrator_tasks{state=~"blocked|scheduled|ready|sent|running"}'},
                stacked=True,
            ),
            Panel(
                "Accepted, by origin",
                {"{{origin}}": "sum by (origin) (rate(codehornets_orchestrator_submissions_total[$__rate_interval]))"},
                "ops",
            ),
            Panel(
                "Ended",
                {"{{status}}": "sum by (status) (rate(codehornets_orchestrator_tasks_ended_total[$__rate_interval]))"},
                "ops",
                stacked=True,
            ),
            Panel("From acceptance to a worker", _quantiles("codehornets_orchestrator_dispatch_seconds"), "s"),
            Panel(
                "From a result to the ledger",
                {
                    **_quantiles("codehornets_orchestrator_result_seconds"),
                    "mean of 15 minutes": "job:codehornets_orchestrator_result_seconds:mean15m",
                },
                "s",
                limits=(5,),
            ),
            Panel(
                "Further tries and goals",
                {
                    "tries": "sum(increase(codehornets_orchestrator_retries_total[$__rate_interval]))",
                    "goals {{status}}": "sum by (status) (increase(codehornets_orchestrator_goals_total[$__rate_interval]))",
                },
            ),
        ],
        "Workers": [
            Panel("Workers, by state", {"{{state}}": "codehornets_orchestrator_workers"}, stacked=True),
            Panel(
                "Last heard",
                {"{{worker}}": "time() - codehornets_orchestrator_worker_heartbeat_timestamp_seconds"},
                "s",
                limits=(30, 60),
            ),
            Panel(
                "Rules that do not hold",
                {"{{invariant}}": "codehornets_orchestrator_invariant_violations"},
                limits=(1,),
            ),
        ],
        "API": [
            Panel(
                "Requests",
                {
                    "{{method}} {{route}}": "sum by (method, route) (rate(codehornets_orchestrator_http_requests_total[$__rate_interval]))"
                },
                "reqps",
            ),
            Panel(
                "p95 of the answers",
                {
                    "{{route}}": "histogram_quantile(0.95, sum by (route, le) (rate(codehornets_orchestrator_http_request_seconds_bucket[$__rate_interval])))"
                },
                "s",
            ),
            Panel(
                "Its own errors",
                {"of all": "job:codehornets_orchestrator_http_errors:ratio5m"},
                "percentunit",
                limits=(0.05,),
            ),
        ],
        "Process": [
            Panel("CPU", {"{{instance}}": f"rate(process_cpu_seconds_total{{{_ORCHESTRATOR}}}[$__rate_interval])"}),
            Panel("Memory", {"{{instance}}": f"process_resident_memory_bytes{{{_ORCHESTRATOR}}}"}, "bytes"),
            Panel(
                "Last comparison of files, streams and ledger",
                {"{{instance}}": "time() - codehornets_orchestrator_invariants_checked_timestamp_seconds"},
                "s",
                limits=(120, 300),
            ),
        ],
    },
)

COST = Board(
    "codehornets-cost",
    "codehornets: cost",
    "What the agents cost, by their own account, and what may still be spent. With a subscription these dollars are notional.",
    {
        "Today": [
            _stat("Spent", 'sum(codehornets_orchestrator_budget_usd{kind="spent"})', "currencyUSD"),
            _stat("Reserved", 'sum(codehornets_orchestrator_budget_usd{kind="reserved"})', "currencyUSD"),
            _stat("Limit", 'sum(codehornets_orchestrator_budget_usd{kind="limit"})', "currencyUSD"),
            _stat(
                "Spent, of the limit",
                "max(job:codehornets_orchestrator_budget_spent:ratio)",
                "percentunit",
                limits=(0.8, 0.95),
            ),
            _stat(
                "Left",
                'sum(codehornets_orchestrator_budget_usd{kind="limit"}) - sum(codehornets_orchestrator_budget_usd{kind=~"spent|reserved"})',
                "currencyUSD",
            ),
            _stat(
                "Tasks that could be sent",
                'sum(codehornets_orchestrator_tasks{state="ready"})',
                about="Money, a slot or a worker is lacking.",
            ),
        ],
        "Budgets": [
            Panel("The team's day", {"{{kind}}": "codehornets_orchestrator_budget_usd"}, "currencyUSD", width=12),
            Panel(
                "Spent today, by worker",
                {"{{worker}}": 'codehornets_orchestrator_worker_budget_usd{kind="spent"}'},
                "currencyUSD",
                width=12,
                stacked=True,
            ),
            Panel(
                "Spent, of the worker's limit",
                {"{{worker}}": "worker:codehornets_orchestrator_worker_budget_spent:ratio"},
                "percentunit",
                width=12,
                limits=(0.8,),
            ),
            Panel(
                "Reserved, by worker",
                {"{{worker}}": 'codehornets_orchestrator_worker_budget_usd{kind="reserved"}'},
                "currencyUSD",
                width=12,
                stacked=True,
            ),
        ],
        "Where it goes": [
            Panel(
                "Cost of an hour",
                {"{{worker}}": "worker:codehornets_agent_cost_usd:increase1h"},
                "currencyUSD",
                stacked=True,
            ),
            Panel(
                "Of the time shown",
                {"{{worker}}": "sum by (worker) (increase(codehornets_agent_cost_usd_total[$__range]))"},
                "currencyUSD",
                kind="bargauge",
                instant=True,
            ),
            Panel(
                "Of one completed task",
                {
                    "{{worker}}": 'sum by (worker) (increase(codehornets_agent_cost_usd_total[$__range])) / (sum by (worker) (increase(codehornets_tasks_total{status="completed"}[$__range])) > 0)',
                },
                "currencyUSD",
                kind="bargauge",
                instant=True,
            ),
            Panel(
                "Tokens, by type",
                {"{{type}}": "sum by (type) (rate(codehornets_agent_tokens_total[$__rate_interval]))"},
                "ops",
                width=12,
            ),
            Panel(
                "Tokens, by worker",
                {"{{worker}}": "sum by (worker) (rate(codehornets_agent_tokens_total[$__rate_interval]))"},
                "ops",
                width=12,
            ),
        ],
    },
)

BOARDS: Final = (TEAM, WORKER, ORCHESTRATOR, COST)
_HEIGHTS: Final = {"stat": 4, "table": 6}


def _thresholds(limits: tuple[float, ...]) -> dict[str, Any]:
    colours = ("orange", "red") if len(limits) == 2 else ("red",)
    steps: list[dict[str, Any]] = [{"color": "green", "value": None}]
    steps += [{"color": colour, "value": limit} for colour, limit in zip(colours, limits, strict=False)]
    return {"mode": "absolute", "steps": steps}


def _options(panel: Panel) -> dict[str, Any]:
    reduce = {"calcs": ["lastNotNull"], "fields": "", "values": False}
    match panel.kind:
        case "stat":
            return {"reduceOptions": reduce, "colorMode": "value", "graphMode": "area", "textMode": "value"}
        case "bargauge":
            return {"reduceOptions": reduce, "orientation": "horizontal", "displayMode": "basic"}
        case "state-timeline":
            return {"mergeValues": True, "showValue": "never", "legend": {"displayMode": "list", "showLegend": True}}
        case "table":
            return {"showHeader": True}
        case _:
            return {
                "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
                "tooltip": {"mode": "multi", "sort": "desc"},
            }


def _render(panel: Panel, number: int, x: int, y: int) -> dict[str, Any]:
    custom: dict[str, Any] = {}
    if panel.kind == "timeseries":
        custom = {"fillOpacity": 20 if panel.stacked else 5, "showPoints": "never"}
        custom["stacking"] = {"mode": "normal" if panel.stacked else "none", "group": "A"}
        custom["thresholdsStyle"] = {"mode": "line" if panel.limits else "off"}
    defaults: dict[str, Any] = {"unit": panel.unit, "custom": custom, "thresholds": _thresholds(panel.limits)}
    defaults["mappings"] = [_NO] if panel.yes_or_no else []
    targets = [
        {
            "datasource": _SOURCE,
            "editorMode": "code",
            "expr": query,
            "legendFormat": legend,
            "refId": chr(ord("A") + place),
            "instant": panel.instant,
            "range": not panel.instant,
            "format": "table" if panel.kind == "table" else "time_series",
        }
        for place, (legend, query) in enumerate(panel.queries.items())
    ]
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.about,
        "datasource": _SOURCE,
        "gridPos": {"h": _HEIGHTS.get(panel.kind, 8), "w": panel.width, "x": x, "y": y},
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": _options(panel),
        "targets": targets,
    }


def _panels(board: Board) -> list[dict[str, Any]]:
    rendered: list[dict[str, Any]] = []
    y = 0
    for heading, panels in board.rows.items():
        place = {"h": 1, "w": _COLUMNS, "x": 0, "y": y}
        rendered.append(
            {
                "id": len(rendered) + 1,
                "type": "row",
                "title": heading,
                "collapsed": False,
                "gridPos": place,
                "panels": [],
            }
        )
        y, x, height = y + 1, 0, 0
        for panel in panels:
            if x + panel.width > _COLUMNS:
                x, y, height = 0, y + height, 0
            rendered.append(_render(panel, len(rendered) + 1, x, y))
            x, height = x + panel.width, max(height, _HEIGHTS.get(panel.kind, 8))
        y += height
    return rendered


def _variables(board: Board) -> list[dict[str, Any]]:
    source = {"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus", "hide": 0}
    if not board.of_one_worker:
        return [source]
    query = "label_values(codehornets_ready, worker)"
    return [
        source,
        {
            "name": "worker",
            "label": "Worker",
            "type": "query",
            "datasource": _SOURCE,
            "query": {"query": query, "refId": "workers"},
            "definition": query,
            "refresh": 2,
            "sort": 1,
            "includeAll": False,
            "multi": False,
            "hide": 0,
        },
    ]


def render(board: Board) -> str:
    """Return the board as Grafana reads it."""
    links = [
        {
            "title": "Boards",
            "type": "dashboards",
            "tags": board.tags,
            "asDropdown": True,
            "includeVars": True,
            "keepTime": True,
        },
        {"title": "Runbook", "type": "link", "url": RUNBOOK, "targetBlank": True},
    ]
    told = {
        "uid": board.uid,
        "title": board.title,
        "description": board.about,
        "tags": board.tags,
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "timezone": "browser",
        "time": {"from": "now-3h", "to": "now"},
        "refresh": "30s",
        "links": links,
        "templating": {"list": _variables(board)},
        "annotations": {"list": []},
        "panels": _panels(board),
    }
    return json.dumps(told, indent=2, ensure_ascii=False) + "\n"


def files() -> dict[Path, str]:
    """Return what belongs into dashboards/."""
    return {FOLDER / f"{board.uid}.json": render(board) for board in BOARDS}


if __name__ == "__main__":
    for path, text in files().items():
        path.write_text(text, encoding="utf-8")
        print(path)
