"""`python -m benchmarks`: measure all of it in one run and print one table (`make bench`)."""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks import claude, control, files, hooks, over_redis, questions, supervision
from benchmarks.dashboard import measure_dashboard
from benchmarks.orchestrator_rows import measure_orchestrator
from benchmarks.peers import PEERS, PeerFigures, measure_peer
from benchmarks.peers.processes import PeerError
from benchmarks.peers.redis_server import open_redis
from benchmarks.rig import DISK, MEMORY, say
from benchmarks.table import QUICK, Row, Scale, table
from benchmarks.worktrees import measure_worktrees

SLOTS = 10


def measure_files(scale: Scale, peers: list[PeerFigures]) -> list[Row]:
    """Measure the worker with the echo agent."""
    best_p99 = min((peer.p99_ms for peer in peers if peer.p99_ms), default=None)
    best_rate = max((peer.tasks_per_s for peer in peers if peer.tasks_per_s), default=None)
    latency = files.trigger_latency(scale.samples, SLOTS)
    memory_rates = [files.throughput(scale.tasks, SLOTS, MEMORY) for _ in range(3)]
    memory_rate = statistics.median(memory_rates)
    disk_rate = statistics.median(files.throughput(scale.disk_tasks, SLOTS, DISK) for _ in range(3))
    idle, echo_mb = files.idle(scale.idle_s)
    cpu_share, wakes = 100 * idle.cpu_s / scale.idle_s, idle.switches * 60 / scale.idle_s
    start_s = files.start_seconds(scale.starts)
    first_s, backlog_rate, more_mb = files.backlog(scale.backlog, SLOTS)
    slower = 1 - backlog_rate / memory_rate
    rows = [
        Row(
            "trigger renamed into place → agent has the prompt",
            "p50 ≤ 0.5 ms, p99 ≤ 2 ms",
            f"p50 {latency.p50_ms:.2f} ms, p99 {latency.p99_ms:.2f} ms",
            latency.p50_ms <= 0.5 and latency.p99_ms <= 2,
        ),
        Row(
            "no-op tasks through, result file written, tmpfs",
            "≥ 5,000/s",
            f"{memory_rate:,.0f}/s ({min(memory_rates):,.0f} to {max(memory_rates):,.0f})",
            memory_rate >= 5000,
        ),
        Row("the same on a disk, results durable", "≥ 2,000/s", f"{disk_rate:,.0f}/s", disk_rate >= 2000),
        Row("idle, CPU", "≤ 0.05 %", f"{cpu_share:.3f} %", cpu_share <= 0.05),
        Row("idle, wake-ups", "≤ 60 a minute", f"{wakes:.0f} a minute", wakes <= 60),
        Row("resident memory, idle, echo agent", "≤ 60 MB", f"{echo_mb:.1f} MB", echo_mb <= 60),
        Row("process start → /readyz 200", "≤ 0.8 s", f"{start_s:.2f} s", start_s <= 0.8),
        Row(f"backlog of {scale.backlog:,}: first dispatch", "≤ 1 s after ready", f"{first_s:.2f} s", first_s <= 1),
        Row(
            f"backlog of {scale.backlog:,}: throughput",
            "within 20 % of a small one",
            f"{backlog_rate:,.0f}/s ({100 * slower:+.0f} % slower)",
            slower <= 0.2,
        ),
        Row(f"backlog of {scale.backlog:,}: memory", "≤ 60 MB more", f"{more_mb:.1f} MB more", more_mb <= 60),
    ]
    if best_p99 is not None and best_rate is not None:
        p99_ratio, rate_ratio = best_p99 / latency.p99_ms, memory_rate / best_rate
        rows.insert(
            1,
            Row(
                "… its p99 beside the best peer's",
                "no worse",
                f"{latency.p99_ms:.2f} against {best_p99:.2f} ms: {p99_ratio:.1f} × as fast",
                p99_ratio >= 1,
            ),
        )
        rows.insert(
            3,
            Row("… beside the best peer", "≥ 2 ×", f"{rate_ratio:.1f} × its {best_rate:,.0f}/s", rate_ratio >= 2),
        )
    return rows


def measure_control(scale: Scale) -> list[Row]:
    """Measure the control pipe."""
    line = control.control_latency(scale.samples)
    return [
        Row(
            "line written to the control pipe → command handled",
            "p50 ≤ 0.3 ms, p99 ≤ 2 ms",
            f"p50 {line.p50_ms:.2f} ms, p99 {line.p99_ms:.2f} ms",
            line.p50_ms <= 0.3 and line.p99_ms <= 2,
        )
    ]


def measure_redis(scale: Scale, peers: list[PeerFigures]) -> list[Row]:
    """Measure the worker with tasks on Redis."""
    with open_redis() as url:
        latency = over_redis.latency(url, scale.samples, SLOTS)
        rates = [over_redis.throughput(url, scale.tasks, SLOTS) for _ in range(3)]
        idle = over_redis.idle(url, scale.idle_s)
    rate = statistics.median(rates)
    cpu_share, wakes = 100 * idle.cpu_s / scale.idle_s, idle.switches * 60 / scale.idle_s
    back_s = over_redis.seconds_to_return()
    rows = [
        Row(
            "XADD and PUBLISH by a client → agent has the prompt",
            "p50 ≤ 0.8 ms, p99 ≤ 2 ms",
            f"p50 {latency.p50_ms:.2f} ms, p99 {latency.p99_ms:.2f} ms",
            latency.p50_ms <= 0.8 and latency.p99_ms <= 2,
        ),
        Row(
            "no-op tasks through Redis, result stored and acknowledged",
            "≥ 4,000/s",
            f"{rate:,.0f}/s ({min(rates):,.0f} to {max(rates):,.0f})",
            rate >= 4000,
        ),
        Row("idle in hybrid mode with Redis, CPU", "≤ 0.1 %", f"{cpu_share:.3f} %", cpu_share <= 0.1),
        Row("idle in hybrid mode with Redis, wake-ups", "≤ 120 a minute", f"{wakes:.0f} a minute", wakes <= 120),
        Row("Redis killed and started under load → consuming again", "≤ 2 s", f"{back_s:.2f} s", back_s <= 2),
    ]
    best_p50 = min((peer.p50_ms for peer in peers if peer.p50_ms), default=None)
    best_p99 = min((peer.p99_ms for peer in peers if peer.p99_ms), default=None)
    best_rate = max((peer.tasks_per_s for peer in peers if peer.tasks_per_s), default=None)
    if best_p50 is not None and best_p99 is not None and best_rate is not None:
        compared = f"{latency.p50_ms:.2f} and {latency.p99_ms:.2f} against {best_p50:.2f} and {best_p99:.2f} ms"
        no_worse = latency.p50_ms <= best_p50 and latency.p99_ms <= best_p99
        rows.insert(1, Row("… its p50 and p99 beside the best peer's", "no worse", compared, no_worse))
        ratio = rate / best_rate
        rows.insert(3, Row("… beside the best peer", "≥ 1.5 ×", f"{ratio:.1f} × its {best_rate:,.0f}/s", ratio >= 1.5))
    return rows


def measure_claude(scale: Scale) -> list[Row]:
    """Measure the worker with the real Claude Code CLI."""
    warm = claude.warm_latency(scale.claude_samples)
    cold, cold_rate = claude.cold(scale.cold_samples)
    pool_rate = claude.rate(scale.claude_tasks, 4)
    used, sdk_mb, processes_mb = claude.idle_with_warm_processes(scale.idle_s, 2)
    share = 100 * used.cpu_s / scale.idle_s
    faster, more = cold.p50_ms / warm.p50_ms, pool_rate / cold_rate
    return [
        Row(
            "Claude, trigger in place → the API has the request, warm",
            "p50 ≤ 80 ms",
            f"p50 {warm.p50_ms:.0f} ms, p99 {warm.p99_ms:.0f} ms",
            warm.p50_ms <= 80,
        ),
        Row("… beside a start of `claude -p`", "≥ 6 ×", f"{faster:.1f} × its {cold.p50_ms:.0f} ms", faster >= 6),
        Row(
            "Claude tasks through one worker, 4 slots, beside one `claude -p` after the other",
            "≥ 5 ×",
            f"{pool_rate:.1f}/s, {more:.1f} × its {cold_rate:.2f}/s",
            more >= 5,
        ),
        Row("idle with 2 warm Claude processes, CPU of all", "≤ 0.1 %", f"{share:.3f} %", share <= 0.1),
        Row("resident memory, idle, SDK loaded (Claude's own apart)", "≤ 100 MB", f"{sdk_mb:.1f} MB", sdk_mb <= 100),
        Row("… Claude's processes and their leashes", "", f"{processes_mb:.0f} MB", None),
    ]


def measure_hooks(scale: Scale) -> list[Row]:
    """Measure the bridge of Claude Code's hooks."""
    cost = hooks.hook_cost(scale.hook_calls, scale.hook_rounds)
    command_s = hooks.command_seconds(scale.cold_samples)
    return [
        Row(
            "the hook bridge, added per hook event, as the real CLI sees it",
            "p50 ≤ 5 ms",
            f"p50 {cost.p50_ms:.1f} ms ({cost.without.p50_ms:.0f} → {cost.bridged.p50_ms:.0f} ms a tool call)",
            cost.p50_ms <= 5,
        ),
        Row("`codehornets hook`, start to end", "", f"{1000 * command_s:.0f} ms", None),
    ]


def measure_questions(scale: Scale) -> list[Row]:
    """Measure the way of a permission to a person and back."""
    told = questions.questions(scale.questions)
    return [
        Row(
            "a permission asked → on the API's event stream",
            "p95 ≤ 500 ms",
            f"p50 {told.shown.p50_ms:.0f} ms, p95 {told.shown_p95_ms:.0f} ms",
            told.shown_p95_ms <= 500,
        ),
        *(
            []
            if told.painted is None or told.painted_p95_ms is None
            else [
                Row(
                    "… → its row painted, on an open inbox and an open overview",
                    "p95 ≤ 500 ms",
                    f"p50 {told.painted.p50_ms:.0f} ms, p95 {told.painted_p95_ms:.0f} ms",
                    told.painted_p95_ms <= 500,
                )
            ]
        ),
        Row(
            "approved over HTTP → the tool runs",
            "",
            f"p50 {told.ran.p50_ms:.0f} ms, p95 {told.ran_p95_ms:.0f} ms",
            None,
        ),
    ]


def measure_supervision(scale: Scale) -> list[Row]:
    """Measure the watch over running tasks."""
    delays = supervision.detection_delays(scale.stuck_after_s)
    alarms, healthy = supervision.false_alarms(4.0, scale.healthy_rounds)
    cost = supervision.watch_cost(scale.watched_tasks, scale.idle_s / 2, scale.streamed_pieces)
    after = f"with {scale.stuck_after_s:g} s"
    rows = [
        Row(
            f"stuck by {signal} → noticed, {after}",
            "≤ 5 s later",
            f"{delay:.1f} s later",
            delay <= supervision.ALLOWED_S,
        )
        for signal, delay in delays.items()
    ]
    return [
        *rows,
        Row("healthy tasks beyond the same limits, found stuck", "0", f"{alarms} of {healthy}", alarms == 0),
        Row(
            "supervision, for each running task",
            "",
            f"{100 * cost.cpu_share:.4f} % CPU, {cost.memory_kb:.0f} kB",
            None,
        ),
        Row(
            "… for each piece of an answer that streams",
            "",
            f"{cost.worker_us:.0f} µs of the worker, {cost.claude_us:.0f} µs of Claude Code",
            None,
        ),
    ]


def measure_peers(names: list[str], scale: Scale) -> list[PeerFigures]:
    """Measure the peers on one local Redis."""
    try:
        with open_redis() as url:
            return [measure_peer(name, url, scale.samples, scale.peer_tasks, SLOTS) for name in names]
    except PeerError as error:
        say(str(error))
        return [PeerFigures(name=name) for name in names]


def peer_table(peers: list[PeerFigures]) -> str:
    """Return the peers' figures as a markdown table."""
    lines = ["| peer | version | p50 | p99 | tasks/s |", "|---|---|---|---|---|"]
    for peer in peers:
        if peer.p50_ms is None or peer.p99_ms is None or peer.tasks_per_s is None:
            lines.append(f"| {peer.name} | not measured | | | |")
        else:
            figures = f"{peer.p50_ms:.2f} ms | {peer.p99_ms:.2f} ms | {peer.tasks_per_s:,.0f}"
            lines.append(f"| {peer.name} | {peer.version} | {figures} |")
    return "\n".join(lines)


def machine() -> str:
    """Describe the machine in a line."""
    processors = Path("/proc/cpuinfo").read_text().splitlines()
    models = (line.split(":")[1].strip() for line in processors if line.startswith("model name"))
    model = next(models, platform.machine())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    steal = Path("/proc/stat").read_text().splitlines()[0].split()
    share = 100 * int(steal[8]) / sum(int(word) for word in steal[1:])
    parts = (
        f"{os.cpu_count()} × {model}, {memory:.0f} GiB",
        f"Linux {platform.release()}, Python {platform.python_version()}, {time.strftime('%Y-%m-%d')}",
        f"CPU time stolen by the hypervisor since boot: {share:.1f} %",
    )
    return "; ".join(parts)


def _has_redis_server() -> bool:
    if shutil.which("redis-server") is not None:
        return True
    if os.geteuid() == 0 and shutil.which("apt-get") is not None:
        say("installing redis-server for the peers")
        for command in (["apt-get", "update", "-qq"], ["apt-get", "install", "-y", "-qq", "redis-server"]):
            subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
    return shutil.which("redis-server") is not None


def main() -> None:
    """Measure what is asked for; the table goes to stdout, progress to stderr."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure speed and memory.")
    parser.add_argument("--quick", action="store_true", help="a fifth of the samples: for a look, not for a record")
    parts_there = (
        *("files", "control", "redis", "claude", "hooks", "questions", "supervision", "worktrees"),
        *("orchestrator", "dashboard", "peers"),
    )
    parser.add_argument("--only", choices=parts_there, help="one part alone")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables to this file too")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    scale = QUICK if options.quick else Scale()
    parts: dict[str, Callable[[], list[Row]]] = {}
    peers: list[PeerFigures] = []
    try:
        if options.only in (None, "peers"):
            if not _has_redis_server():
                say("redis-server is not installed, so the peers are left out; install it to have the ratios.")
            peers = measure_peers(list(PEERS), scale)
        if options.only in (None, "files"):
            parts["files"] = lambda: measure_files(scale, peers)
        if options.only in (None, "control"):
            parts["control"] = lambda: measure_control(scale)
        if options.only in (None, "redis") and _has_redis_server():
            parts["redis"] = lambda: measure_redis(scale, peers)
        if options.only in (None, "claude"):
            parts["claude"] = lambda: measure_claude(scale)
        if options.only in (None, "hooks"):
            parts["hooks"] = lambda: measure_hooks(scale)
        if options.only in (None, "questions"):
            parts["questions"] = lambda: measure_questions(scale)
        if options.only in (None, "worktrees"):
            parts["worktrees"] = lambda: measure_worktrees(scale)
        if options.only in (None, "supervision"):
            parts["supervision"] = lambda: measure_supervision(scale)
        if options.only in (None, "orchestrator"):
            parts["orchestrator"] = lambda: measure_orchestrator(scale)
        if options.only in (None, "dashboard"):
            parts["dashboard"] = lambda: measure_dashboard(quick=options.quick)
        rows: list[Row] = []
        for part in parts.values():
            rows += part()
            # Told as it comes: what was measured must not be lost to what comes after it.
            say(table(rows))
    except KeyboardInterrupt:
        sys.exit("Interrupted; all processes are stopped.")
    except (RuntimeError, PeerError, OSError, subprocess.TimeoutExpired) as error:
        sys.exit(f"benchmarks: {error}")
    tables = [table(rows)] if rows else []
    if peers:
        tables.append(peer_table(peers))
    report = "\n\n".join([machine(), *tables])
    print(report)
    if options.markdown is not None:
        options.markdown.write_text(report + "\n")


if __name__ == "__main__":
    main()
