"""`codehornets usage`: cost and tokens by day, worker, goal, task or model, and what is left of the budgets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from orchestrator_service.cli.api_place import need_api
from orchestrator_service.cli.errors import UserError
from orchestrator_service.cli.moments import money, parse_moment
from orchestrator_service.cli.output import print_json
from orchestrator_service.cli.tables import print_table
from orchestrator_service.cli.where import Where

if TYPE_CHECKING:
    from orchestrator_service.accounts import BudgetLine, UsageSums

_BY: Final = ("day", "worker", "goal", "task", "model")
_NAMELESS: Final = {"goal": "(no goal)", "model": "(not known)"}


def usage(*, by: str, since: str | None, until: str | None, limit: int, where: Where, as_json: bool) -> int:
    """Show what was used.

    Raises:
        UserError: `by` or a moment is none, or there is no orchestrator.
    """
    if by not in _BY:
        raise UserError(f"--by is {by[:80]!r}; allowed are {', '.join(_BY)}.")
    query = [("by", by), ("limit", str(limit))]
    for name, text in (("since", since), ("until", until)):
        if text is not None:
            query.append((name, parse_moment(f"--{name}", text).isoformat()))
    place = need_api(where, "`usage`")
    from orchestrator_service.client import calls as api_calls

    found = api_calls.ask(place, api_calls.usage(query))
    if as_json:
        print_json(found.model_dump(mode="json"))
        return 0
    if not found.rows and not found.total.tries:
        print("Nothing was used.")
    else:
        rows = [(row.label or _NAMELESS.get(by, "-"), *_cells(row)) for row in found.rows]
        print_table(
            [by, "tasks>", "tries>", "cost>", "input>", "output>", "cache read>", "cache written>"],
            [*rows, ("total", *_cells(found.total))],
        )
    print(f"{found.budget.day}: {_left(found.budget)}.")
    for worker in found.budget.workers:
        if worker.limit_usd is not None:
            print(f"{worker.worker}: {_left(worker)}.")
    return 0


def _cells(sums: UsageSums) -> tuple[str, ...]:
    tokens = (sums.input_tokens, sums.output_tokens, sums.cache_read_tokens, sums.cache_creation_tokens)
    price = money(sums.cost_usd, sums.notional_cost_usd)
    return str(sums.tasks), str(sums.tries), price, *(f"{amount:,}" for amount in tokens)


def _left(line: BudgetLine) -> str:
    told = f"{money(line.spent_usd)} spent, {money(line.reserved_usd)} reserved"
    if line.left_usd is None:
        return f"{told}, no limit"
    return f"{told}, {money(line.left_usd)} of {money(line.limit_usd)} left"
