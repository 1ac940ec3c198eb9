"""`codehornets graph`: hand in a file of tasks that need each other, and wait for all of them."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

import anyio

from orchestrator_service.cli.api_place import need_api
from orchestrator_service.cli.api_tasks import hand_in_surely
from orchestrator_service.cli.errors import EXIT_GAVE_UP
from orchestrator_service.cli.graph_files import read_graph
from orchestrator_service.cli.moments import money
from orchestrator_service.cli.output import print_json
from orchestrator_service.cli.patience import Patience
from orchestrator_service.cli.tables import print_table
from orchestrator_service.cli.terminal import harmless
from orchestrator_service.cli.where import Where
from orchestrator_service.client import calls as api_calls
from orchestrator_service.client.calls import ApiAway, ApiPlace
from orchestrator_service.records import FINAL_STATES, TaskState, TaskSummary

_PAGE: Final = 500
_RELOOK_S: Final = 30.0
"""The net under the events."""
_MOST_ROWS: Final = 200
_HEADINGS: Final = ("task", "state", "worker", "took>", "cost>", "title or error*")


def graph(path: Path, *, where: Where, wait: bool, give_up_after_s: float | None, as_json: bool) -> int:
    """Hand the graph in; with `wait` 0 when all tasks completed, 1 when one did not, 5 when waiting gave up."""
    order = read_graph(path)
    place = need_api(where, "`graph`")
    submission = hand_in_surely(place, order)
    graph_id = str(submission.graph_id)
    if not wait:
        if as_json:
            print_json(submission.model_dump(mode="json"))
        else:
            print(graph_id)
            print(f"{len(submission.tasks)} tasks; `codehornets tasks --graph {graph_id}` shows them.", file=sys.stderr)
        return 0
    following = _Following(graph_id, submission.tasks)
    with _bar(graph_id, len(submission.tasks)) as show:
        whole = anyio.run(partial(following.until_all_ended, place, give_up_after_s, show))
    return _tell(following, whole, as_json=as_json)


class _Following:
    """The tasks of a graph, as far as is known."""

    def __init__(self, graph_id: str, tasks: list[TaskSummary]) -> None:
        self.graph_id = graph_id
        self.tasks = {task.task_id: task for task in tasks}
        self._open = {task.task_id for task in tasks if task.state not in FINAL_STATES}
        self.counts: Counter[str] = Counter(task.state.value for task in tasks if task.state in FINAL_STATES)
        """How many have ended, and how."""

    async def until_all_ended(
        self, place: ApiPlace, give_up_after_s: float | None, show: Callable[[Counter[str]], None]
    ) -> bool:
        """Return whether all ended in time; what they are then is in `tasks`."""
        from orchestrator_service.client.streams import ApiClient

        patience = Patience("The API")
        async with ApiClient(place) as client:
            with anyio.move_on_after(give_up_after_s):
                async with anyio.create_task_group() as group:
                    relook = anyio.Event()

                    def opened() -> None:
                        nonlocal relook
                        patience.answered()
                        # What ended before the stream began gives no event.
                        relook.set()

                    async def listen() -> None:
                        stream = client.stream("/events", endless=True, on_lost=patience.say, on_open=opened)
                        async for event in stream:
                            if event.event == "task_ended" and self._take(event.data):
                                show(self.counts)
                                if not self._open:
                                    group.cancel_scope.cancel()

                    group.start_soon(listen)
                    while self._open:
                        with anyio.move_on_after(_RELOOK_S):
                            await relook.wait()
                        relook = anyio.Event()
                        await self._look(client)
                        show(self.counts)
                    group.cancel_scope.cancel()
            with anyio.CancelScope(shield=True), anyio.move_on_after(api_calls.USUAL_TIMEOUT_S):
                await self._look(client)
        return not self._open

    def _take(self, data: bytes) -> bool:
        told: dict[str, Any] = json.loads(data)
        task_id = told.get("task_id")
        if task_id not in self._open:
            return False
        self._open.discard(task_id)
        self.counts[str((told.get("data") or {}).get("status"))] += 1
        return True

    async def _look(self, client: Any) -> None:
        """List the tasks anew; an API that is away is no reason to stop waiting."""
        cursor: str | None = None
        while True:
            query = [("graph", self.graph_id), ("limit", str(_PAGE)), ("order", "asc")]
            query += [("cursor", cursor)] if cursor is not None else []
            try:
                page = await client.ask(api_calls.tasks(query))
            except ApiAway:
                return
            except api_calls.ApiRefused as refusal:
                if not refusal.passes:
                    raise
                return
            for task in page.tasks:
                if task.task_id in self.tasks:
                    self.tasks[task.task_id] = task
                    if task.state in FINAL_STATES:
                        self._open.discard(task.task_id)
            cursor = page.next_cursor
            if cursor is None:
                break
        self.counts = Counter(task.state.value for task in self.tasks.values() if task.state in FINAL_STATES)


def _tell(following: _Following, whole: bool, *, as_json: bool) -> int:
    tasks = list(following.tasks.values())
    bad = [task for task in tasks if task.state is not TaskState.COMPLETED]
    if as_json:
        print_json({"graph_id": following.graph_id, "tasks": [task.model_dump(mode="json") for task in tasks]})
    else:
        # Of a very large graph the tasks that went wrong are what one wants to see.
        shown = tasks if len(tasks) <= _MOST_ROWS else bad[:_MOST_ROWS]
        if shown:
            print_table(_HEADINGS, map(_row, shown))
        if len(shown) < len(tasks):
            print(f"{len(tasks) - len(bad)} of {len(tasks)} tasks completed.")
    sys.stdout.flush()
    if not whole:
        print(
            f"codehornets: Graph {following.graph_id} has not ended yet; `codehornets tasks --graph "
            f"{following.graph_id}` shows how it is.",
            file=sys.stderr,
        )
        return EXIT_GAVE_UP
    return 1 if bad else 0


def _row(task: TaskSummary) -> tuple[str, ...]:
    took = "-"
    if task.started_at is not None and task.ended_at is not None:
        took = f"{(task.ended_at - task.started_at).total_seconds():.1f} s"
    about = task.error.message if task.error is not None else task.title or ""
    return (
        task.task_id,
        task.state.value.replace("_", " "),
        task.worker or "-",
        took,
        money(task.cost_usd, task.notional_cost_usd),
        about,
    )


@contextmanager
def _bar(graph_id: str, total: int) -> Iterator[Callable[[Counter[str]], None]]:
    """Show how many have ended, where somebody looks."""
    if not sys.stderr.isatty():
        yield lambda counts: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[words]}", markup=False),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True, refresh_per_second=8) as progress:
        line = progress.add_task(harmless(f"graph {graph_id}"), total=total, words="")

        def show(counts: Counter[str]) -> None:
            bad = ", ".join(
                f"{number} {state.replace('_', ' ')}"
                for state, number in sorted(counts.items())
                if state != "completed"
            )
            progress.update(line, completed=counts.total(), words=bad)

        yield show
