"""The client of the HTTP API, by both ways of carrying a question, against a small real server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import pytest

from orchestrator_service.client import calls as api_calls
from orchestrator_service.client.calls import ApiAway, ApiPlace, ApiRefused, Call
from orchestrator_service.client.streams import ApiClient
from tests.integration.api_stub import Stub, running_stub, send
from tests.ports import free_port

T = TypeVar("T")


@pytest.fixture
def stub() -> Iterator[Stub]:
    with running_stub() as stub:
        yield stub


@pytest.fixture(params=["stdlib", "httpx"])
def ask(request: pytest.FixtureRequest) -> Callable[[ApiPlace, Call[Any]], Any]:
    """Ask a question, by either way; returns the answer, or the error that was raised."""

    async def asked(place: ApiPlace, call: Call[T]) -> object:
        try:
            if request.param == "stdlib":
                return api_calls.ask(place, call)
            async with ApiClient(place) as client:
                return await client.ask(call)
        except api_calls.ApiError as error:
            return error

    return asked


async def test_an_answer_comes_back_as_what_it_is(stub: Stub, ask: Any) -> None:
    stub.answer("GET", "/counts", {"running": 3})

    assert await ask(ApiPlace(url=stub.url, token="secret"), api_calls.counts()) == {"running": 3}

    assert stub.asked[0].headers["Authorization"] == "Bearer secret"


async def test_a_name_never_leaves_its_place_in_the_path(stub: Stub, ask: Any) -> None:
    await ask(ApiPlace(url=stub.url), api_calls.pause("../x?y=1#z"))

    assert stub.paths() == ["POST /workers/..%2Fx%3Fy%3D1%23z/pause"]


async def test_a_problem_is_told_with_its_fields(stub: Stub, ask: Any) -> None:
    errors = [{"field": f"tasks[{n}].retry.factor", "value": 0, "message": "allowed is 1 to 10."} for n in range(5)]
    stub.answer("POST", "/tasks", {"status": 422, "detail": "The order is refused.", "errors": errors}, 422)

    error = await ask(ApiPlace(url=stub.url), api_calls.submit({"description": "x"}, key="k"))

    assert isinstance(error, ApiRefused)
    assert error.status == 422
    assert [problem.field for problem in error.problems][:2] == ["tasks[0].retry.factor", "tasks[1].retry.factor"]
    assert str(error).startswith("The order is refused; tasks[0].retry.factor: allowed is 1 to 10; tasks[1]")
    assert str(error).endswith("; and 2 more")
    assert stub.asked[0].headers["Idempotency-Key"] == "k"


async def test_nobody_there_is_away_and_was_not_sent(ask: Any) -> None:
    error = await ask(ApiPlace(url=f"http://127.0.0.1:{free_port()}"), api_calls.counts())

    assert isinstance(error, ApiAway)
    assert not error.sent
    assert "does not answer" in str(error)


async def test_a_connection_that_breaks_in_the_middle_may_have_brought_the_question(stub: Stub, ask: Any) -> None:
    stub.answers[("POST", "/tasks")] = lambda asked, handler: None

    error = await ask(ApiPlace(url=stub.url), api_calls.submit({}, key="k"))

    assert isinstance(error, ApiAway)
    assert error.sent


@pytest.mark.parametrize(("status", "body"), [(200, b"<html>"), (200, b'{"a": "b"}'), (404, b"not here")])
async def test_another_program_is_no_orchestrator(stub: Stub, ask: Any, status: int, body: bytes) -> None:
    stub.answers[("GET", "/counts")] = lambda asked, handler: send(handler, status, "text/html", body)

    error = await ask(ApiPlace(url=stub.url), api_calls.counts())

    assert isinstance(error, ApiAway)
    assert "is no orchestrator" in str(error)


async def test_a_refused_token_comes_with_its_mend(stub: Stub, ask: Any) -> None:
    stub.answer("GET", "/counts", {"status": 401, "detail": "A token is needed."}, 401)

    error = await ask(ApiPlace(url=stub.url), api_calls.counts())

    assert str(error) == "A token is needed; give a token with --token-file, API_TOKEN or API_TOKEN_FILE"


async def test_a_broken_stream_is_taken_up_where_it_was(stub: Stub) -> None:
    stub.stream(
        "/events",
        b'retry: 1000\n\n: hello\n\nid: 7\nevent: task_ended\ndata: {"a":\ndata:1}\n\nid: 8\nevent: half',
        b"id: 9\r\nevent: task_ended\r\ndata: {}\r\n\r\n",
    )
    lost: list[str] = []

    async with ApiClient(ApiPlace(url=stub.url)) as client:
        stream = client.stream("/events", [("agent", "true")], on_lost=lambda error: lost.append(str(error)))
        events = [event async for event in stream]

    assert [(event.id, event.event, event.data) for event in events] == [
        ("7", "task_ended", b'{"a":\n1}'),
        ("9", "task_ended", b"{}"),
    ]
    assert len(lost) == 1
    assert stub.asked[1].headers["Last-Event-ID"] == "7"
    assert stub.asked[1].query == {"agent": ["true"]}


async def test_a_stream_that_never_began_is_an_error(stub: Stub) -> None:
    async with ApiClient(ApiPlace(url=stub.url)) as client:
        with pytest.raises(ApiRefused, match="There is nothing at /events"):
            await anext(client.stream("/events"))
    async with ApiClient(ApiPlace(url=f"http://127.0.0.1:{free_port()}")) as client:
        with pytest.raises(ApiAway):
            await anext(client.stream("/events"))
