"""The orchestrator's lines of the table."""

from __future__ import annotations

import statistics

from benchmarks import orchestrator
from benchmarks.event_streams import DEAF, streams
from benchmarks.glance import REACH_MS, SAMPLES, SIZES, measure_glance
from benchmarks.ledger_size import measure_ledger
from benchmarks.table import Row, Scale


def measure_orchestrator(scale: Scale) -> list[Row]:
    """Measure the orchestrator."""
    return [*_tasks(scale), *_ledger(scale), *_glance(), *_graphs(scale), *_idle(scale), *_streams(scale)]


def _tasks(scale: Scale) -> list[Row]:
    posts = orchestrator.posts(scale.team_samples, scale.posts)
    alone, rates, rate = posts.alone, posts.rates, statistics.median(posts.rates)
    prompt = orchestrator.to_prompt(scale.team_samples)
    in_api, in_events = orchestrator.result_visible(scale.team_samples)
    said = orchestrator.live_output(scale.team_samples)
    return [
        Row(
            "`POST /tasks` answered, durable in a ledger on a disk, one client",
            "p50 ≤ 5 ms",
            f"p50 {alone.p50_ms:.2f} ms, p99 {alone.p99_ms:.2f} ms",
            alone.p50_ms <= 5,
        ),
        Row(
            "… from 8 clients at once, a worker working the tasks off",
            "≥ 500/s",
            f"{rate:,.0f}/s ({min(rates):,.0f} to {max(rates):,.0f})",
            rate >= 500,
        ),
        Row("… processor time of the orchestrator a task, result included", "", f"{posts.cpu_ms:.2f} ms", None),
        Row(
            "`POST /tasks` → agent has the prompt",
            "p50 ≤ 10 ms, p99 ≤ 40 ms",
            f"p50 {prompt.p50_ms:.2f} ms, p99 {prompt.p99_ms:.2f} ms",
            prompt.p50_ms <= 10 and prompt.p99_ms <= 40,
        ),
        Row(
            "worker's result in place → `GET /tasks/wait` answered",
            "p50 ≤ 10 ms",
            f"p50 {in_api.p50_ms:.2f} ms, p99 {in_api.p99_ms:.2f} ms",
            in_api.p50_ms <= 10,
        ),
        Row(
            "worker's result in place → event at a client",
            "p50 ≤ 10 ms",
            f"p50 {in_events.p50_ms:.2f} ms, p99 {in_events.p99_ms:.2f} ms",
            in_events.p50_ms <= 10,
        ),
        Row(
            "an agent's line in its journal → a client of `GET /tasks/ID/events`",
            "≤ 100 ms",
            f"p50 {said.p50_ms:.2f} ms, p99 {said.p99_ms:.2f} ms",
            said.p99_ms <= 100,
        ),
    ]


def _ledger(scale: Scale) -> list[Row]:
    figures = measure_ledger(scale.ledger_tasks, scale.ledger_samples, scale.ledger_starts)
    what, worst_ms = figures.worst
    name = f"{scale.ledger_tasks:,} tasks in the ledger"
    return [
        Row(
            f"{name}: list, filter, get ({len(figures.p95_ms)} questions)",
            "p95 ≤ 50 ms each",
            f"p95 {statistics.median(figures.p95_ms.values()):.1f} ms in the middle, "
            f"{worst_ms:.1f} ms the worst ({what})",
            worst_ms <= 50,
        ),
        Row(f"{name}: process start → /readyz 200", "≤ 3 s", f"{figures.start_s:.2f} s", figures.start_s <= 3),
        Row(f"{name}: resident memory", "", f"{figures.resident_mb:.1f} MB beside {figures.ledger_mb:,.0f} MB", None),
    ]


def _glance() -> list[Row]:
    small, large = (measure_glance(tasks, SAMPLES) for tasks in SIZES)
    rows = []
    for tasks, figures in zip(SIZES, (small, large), strict=True):
        for kind, each in figures.items():
            what, worst_ms = max(each.items(), key=lambda item: item[1])
            reach_ms = REACH_MS[kind] if figures is small or kind == "usage" else None
            rows.append(
                Row(
                    f"{tasks:,} tasks in the ledger: {kind} ({len(each)} questions)",
                    "" if reach_ms is None else f"p95 ≤ {reach_ms:.0f} ms each",
                    f"p95 {worst_ms:.1f} ms the worst ({what})",
                    None if reach_ms is None else worst_ms <= reach_ms,
                )
            )
    return rows


def _graphs(scale: Scale) -> list[Row]:
    flat = orchestrator.graph_handed_over(scale.graph)
    layered = orchestrator.graph_end_to_end(scale.graph)
    name = f"a graph of {scale.graph:,} tasks"
    # With the time of the POST, the one figure that cannot be made larger by answering later.
    rate = flat.tasks / flat.whole_s
    after = f"{flat.done_s:.2f} s after the answer" if flat.done_s > 0 else "before the answer"
    return [
        Row(f"{name} in one body: accepted", "≤ 2 s", f"{layered.accepted_s:.2f} s", layered.accepted_s <= 2),
        Row(
            f"{name}, none waits for another: scheduled and in place, the POST included",
            "≥ 1,000/s",
            f"{rate:,.0f}/s (accepted in {flat.accepted_s:.2f} s, the last one in place {after})",
            rate >= 1000,
        ),
        Row(
            f"{name} in layers of {orchestrator.LAYER}: through two echo workers, all results in the ledger",
            "",
            f"{layered.tasks / layered.done_s:,.0f}/s ({layered.done_s:.1f} s after the answer)",
            None,
        ),
    ]


def _idle(scale: Scale) -> list[Row]:
    used, small_mb, with_mcp_mb = orchestrator.idle(scale.idle_s)
    share, wakes = 100 * used.cpu_s / scale.idle_s, used.switches * 60 / scale.idle_s
    return [
        Row("the orchestrator idle with 3 workers, CPU", "≤ 0.1 %", f"{share:.3f} %", share <= 0.1),
        Row("… wake-ups", "", f"{wakes:.0f} a minute", None),
        Row("… resident memory", "≤ 120 MB", f"{small_mb:.1f} MB", small_mb <= 120),
        Row("… once MCP has been used", "", f"{with_mcp_mb:.1f} MB", None),
    ]


def _streams(scale: Scale) -> list[Row]:
    seen = streams(scale.stream_clients, scale.stream_s)
    added_ms = seen.many_p95_ms - seen.alone_p95_ms
    return [
        Row(
            f"{scale.stream_clients} clients of `GET /events`, {DEAF} of which never read: added latency",
            "p95 ≤ 200 ms",
            f"{added_ms:.1f} ms ({seen.alone_p95_ms:.1f} → {seen.many_p95_ms:.1f} ms), {seen.lost} events missed",
            added_ms <= 200 and seen.lost == 0,
        ),
        Row(
            "… the slowest of them beside the one in the middle",
            "none slows another",
            f"p95 {seen.slowest_p95_ms:.1f} ms beside {seen.typical_p95_ms:.1f} ms",
            seen.slowest_p95_ms - seen.typical_p95_ms <= 200,
        ),
        Row(
            f"… what they cost, at {seen.rate:.0f} tasks/s",
            "",
            f"{seen.more_mb:.1f} MB more, {100 * seen.cpu:.0f} % of a processor",
            None,
        ),
    ]
