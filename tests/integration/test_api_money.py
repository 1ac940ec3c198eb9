"""Use, series and gates by HTTP: questions arrive at the desk, wrong ones are named, and only an admin opens a gate."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime

import pytest

from orchestrator_service.accounts import GateRecord, Series, SeriesQuery, Usage, UsageBy, UsageQuery
from orchestrator_service.api import money_examples
from orchestrator_service.settings import ApiSettings, Role, Token
from tests.integration.api_harness import Served, serving

SECRETS = {role: f"secret-of-{role}-0123456789" for role in Role}
OPEN = f"/api/v1/gates/{money_examples.GATE['gate_id']}/open"


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    async with serving() as server:
        yield server


async def test_questions_arrive_at_the_desk(served: Served) -> None:
    async with served.client() as client:
        usage = await client.get("/api/v1/usage?by=worker&since=2026-03-01T00:00Z&until=2026-03-02T01:00+01:00&limit=7")
        assert Usage.model_validate_json(usage.content) == Usage.model_validate(money_examples.USAGE)
        series = await client.get("/api/v1/series?since=2026-03-01T00:00Z&step=60")
        assert Series.model_validate_json(series.content) == Series.model_validate(money_examples.SERIES)
        await client.get("/api/v1/usage")
        await client.get("/api/v1/series")
    first = datetime(2026, 3, 1, tzinfo=UTC)
    assert served.desk.money == [
        UsageQuery(by=UsageBy.WORKER, since=first, until=datetime(2026, 3, 2, tzinfo=UTC), limit=7),
        SeriesQuery(since=first, step_s=60.0),
        UsageQuery(),
        SeriesQuery(),
    ]


@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("usage?by=colour", "by"),
        ("usage?since=yesterday", "since"),
        ("usage?until=2026-03-01T00:00:00", "until"),
        ("usage?limit=0", "limit"),
        ("usage?limit=1001", "limit"),
        ("usage?worker=marie", "worker"),
        ("series?step=0", "step"),
        ("series?step=nan", "step"),
        ("series?step=1e99", "step"),
        ("series?since=now", "since"),
        ("series?points=5", "points"),
    ],
)
async def test_a_wrong_parameter_is_named(served: Served, path: str, field: str) -> None:
    async with served.client() as client:
        answer = await client.get(f"/api/v1/{path}")
    assert answer.status_code == 422
    assert answer.json()["type"] == "/problems/request-refused"
    assert [error["field"] for error in answer.json()["errors"]] == [field]


async def test_gates_are_listed_and_opened(served: Served) -> None:
    async with served.client() as client:
        listed = await client.get("/api/v1/gates")
        assert [GateRecord.model_validate(one) for one in listed.json()] == [
            GateRecord.model_validate(money_examples.GATE)
        ]
        assert (await client.post(OPEN)).status_code == 200
        missing = await client.post("/api/v1/gates/none/open")
    assert (missing.status_code, missing.json()["detail"]) == (404, "There is no closed gate 'none'.")
    assert [asker.name for asker in served.desk.askers] == ["local", "local"]


async def test_only_an_admin_opens_a_gate_and_everybody_may_look() -> None:
    tokens = tuple(Token(name=role.value, role=role, secret=secret) for role, secret in SECRETS.items())
    async with serving(settings=ApiSettings(tokens=tokens)) as guarded:
        for role, secret in SECRETS.items():
            async with guarded.client(secret) as client:
                for path in ("usage", "series", "gates"):
                    assert (await client.get(f"/api/v1/{path}")).status_code == 200
                assert ((await client.post(OPEN)).status_code == 200) == (role is Role.ADMIN)
        async with guarded.client() as nobody:
            assert (await nobody.get("/api/v1/usage")).status_code == 401
