"""A stand-in for the Messages API, so that tests and benchmarks run the real Claude Code CLI without a model.

    with MessagesApi() as api:
        api.when("list the files", tool_use("Bash", {"command": "ls"}), reply("done"))
        ...                      # start the CLI with ANTHROPIC_BASE_URL=api.url
        seen = api.wait_for_request(lambda r: r.prompt == "list the files")

Every prompt no rule matches is answered with ``You said: PROMPT``. The server has its own thread and loop, so
synchronous and asynchronous tests use it alike. As a script (``python messages_api.py --port 0``) it is a process of
its own, prints ``{"port": N, ...}`` as its first line and tells what it saw at ``GET /__requests``.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import re
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal, Self

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

Json = dict[str, Any]


class RequestNeverCame(AssertionError):
    """No request met the condition in time; the message lists the prompts that did come."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """One answer to one request. Use the functions below rather than this constructor."""

    content: tuple[Json, ...] = ()
    """Content blocks of the assistant message; empty means that ``body`` is sent as it is."""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: str = ""
    hold: bool = False
    """Keep the request open until ``MessagesApi.release``, the client's disconnect or the end of the server."""
    chunk_delay_s: float = 0.0
    """Seconds before each streamed word."""
    open_end: bool = False
    """Stream the whole message, and then keep the stream open as ``hold`` does."""
    input_tokens: int = 10
    output_tokens: int = 5


def reply(text: str, *, input_tokens: int = 10, output_tokens: int = 5) -> Step:
    """A plain text answer that ends the turn; the token counts are what the CLI bills the task for."""
    return Step(content=({"type": "text", "text": text},), input_tokens=input_tokens, output_tokens=output_tokens)


def tool_use(name: str, tool_input: Json, *, say: str = "", input_tokens: int = 10, output_tokens: int = 5) -> Step:
    """A call of one tool. The CLI runs it and sends the result in its next request, which the next step answers."""
    call = {"type": "tool_use", "name": name, "input": tool_input}
    text = ({"type": "text", "text": say},) if say else ()
    return Step(content=(*text, call), input_tokens=input_tokens, output_tokens=output_tokens)


def structured(value: Json) -> Step:
    """The answer to a task with ``--json-schema``: the CLI checks ``value`` and puts it in ``structured_output``."""
    return tool_use("StructuredOutput", value)


def slow(text: str, *, chunk_delay_s: float) -> Step:
    """A text answer streamed word by word, ``chunk_delay_s`` seconds apart."""
    return replace(reply(text), chunk_delay_s=chunk_delay_s)


def unending(text: str) -> Step:
    """A text answer that is whole, its stop reason included, on a stream that does not end until the release."""
    return replace(reply(text), open_end=True)


def hang(then: Step | None = None) -> Step:
    """Nothing at all until ``MessagesApi.release()``; then ``then``, by default a reply."""
    return replace(then or reply("released"), hold=True)


def api_error(status: int, kind: str, message: str, headers: Mapping[str, str] | None = None) -> Step:
    """An HTTP error in the API's own shape. The CLI retries 429, 5xx and 529, not other 4xx."""
    body = json.dumps({"type": "error", "error": {"type": kind, "message": message}})
    return Step(status=status, body=body, headers={"content-type": "application/json", **(headers or {})})


def rate_limited(*, retry_after_s: int | None = 1, resets_at: int | None = None, claim: str = "five_hour") -> Step:
    """HTTP 429. With ``resets_at`` (Unix seconds) it looks like a subscription's usage limit, used up until then."""
    headers = {} if retry_after_s is None else {"retry-after": str(retry_after_s)}
    if resets_at is not None:
        headers |= {
            "anthropic-ratelimit-unified-status": "rejected",
            "anthropic-ratelimit-unified-reset": str(resets_at),
            "anthropic-ratelimit-unified-representative-claim": claim,
        }
    return api_error(429, "rate_limit_error", "Rate limited by the stand-in", headers)


def overloaded() -> Step:
    """HTTP 529, what the API says when it has no capacity."""
    return api_error(529, "overloaded_error", "Overloaded")


def server_error() -> Step:
    """HTTP 500."""
    return api_error(500, "api_error", "Internal server error")


def unauthorized() -> Step:
    """HTTP 401, what an invalid key gets."""
    return api_error(401, "authentication_error", "invalid x-api-key")


def garbage(body: str = "this is not an event stream\n\n") -> Step:
    """HTTP 200 with a body the client cannot read as a message."""
    return Step(body=body, headers={"content-type": "text/event-stream"})


# --- what the stand-in has seen --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Seen:
    """One request to ``/v1/messages``."""

    at_ns: int
    """``time.monotonic_ns()`` when the body was complete; comparable between processes of one machine."""
    body: Json
    headers: Mapping[str, str]
    prompt: str
    """The last text a person wrote: tool results and what the CLI adds on its own are passed over."""
    kind: Literal["main", "side"]
    """``side``: made by the CLI for itself (title, quota check). Such requests use up no step of a rule."""
    session_id: str
    """The CLI's session, or ``""`` when the request names none."""

    @property
    def tool_results(self) -> list[Json]:
        """The ``tool_result`` blocks of the last user message."""
        users = [m for m in self.body.get("messages", []) if m.get("role") == "user"]
        return [b for b in _blocks(users[-1]) if b.get("type") == "tool_result"] if users else []

    @property
    def system_text(self) -> str:
        """The system prompt as one text. An output style is not in it but in ``body["messages"]``."""
        return "\n".join(b.get("text", "") for b in _blocks({"content": self.body.get("system", "")}))


def _blocks(message: Json) -> list[Json]:
    content = message.get("content", "")
    return [{"type": "text", "text": content}] if isinstance(content, str) else list(content)


# What the CLI itself writes into user messages; not what a task said.
_BY_THE_CLI = re.compile(
    r"<(system-reminder|local-command-caveat|command-name|local-command-stdout)>.*?</\1>.*"
    r"|\[structured-output-enforce\].*",
    re.DOTALL,
)


def _prompt_of(body: Json) -> str:
    for message in reversed(body.get("messages", [])):
        if message.get("role") != "user":
            continue
        texts = (_BY_THE_CLI.sub("", b.get("text", "")).strip() for b in _blocks(message) if b.get("type") == "text")
        if said := [text for text in texts if text]:
            return said[-1]
    return ""


def _see(body: Json, headers: Mapping[str, str]) -> Seen:
    try:
        session_id = str(json.loads(body["metadata"]["user_id"])["session_id"])
    except (KeyError, TypeError, ValueError):
        session_id = ""
    seen = Seen(time.monotonic_ns(), body, dict(headers), _prompt_of(body), "main", session_id)
    return replace(seen, kind="side") if _is_side(seen) else seen


def _is_side(seen: Seen) -> bool:
    """Quota checks ask for one token; titles and summaries force a JSON format and bring no tools."""
    has_format = "format" in (seen.body.get("output_config") or {})
    return seen.body.get("max_tokens") == 1 or (has_format and not seen.body.get("tools"))


@dataclass
class _Rule:
    matches: Callable[[Seen], bool]
    steps: tuple[Step, ...]
    shared: bool
    used: dict[tuple[str, str], int] = field(default_factory=dict)

    def next_step(self, seen: Seen) -> Step:
        key = ("", "") if self.shared else (seen.session_id, seen.prompt)
        index = self.used.get(key, 0)
        self.used[key] = index + 1
        return self.steps[min(index, len(self.steps) - 1)]


class MessagesApi:
    """The stand-in server; a context manager that serves while the block runs. Its methods are thread-safe."""

    def __init__(self, *, host: str = "127.0.0.1", port: int = 0, default_reply: str | None = None) -> None:
        """``port`` 0 means any free one. ``default_reply`` None echoes the prompt."""
        self._host = host
        self._port = port
        self._default_reply = default_reply
        self._rules: list[_Rule] = []
        self._seen: list[Seen] = []
        self._changed = threading.Condition()
        self._released = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._socket: socket.socket | None = None
        self._server: uvicorn.Server | None = None
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        self._socket = socket.create_server((self._host, self._port), backlog=256)
        # asyncio does it only for sockets made with IPPROTO_TCP; without it, streamed answers wait 40 ms for an ACK.
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._port = self._socket.getsockname()[1]
        routes = [
            Route("/v1/messages", self._messages, methods=["POST"]),
            Route("/v1/messages/count_tokens", self._count_tokens, methods=["POST"]),
            Route("/__requests", self._tell_requests, methods=["GET"]),
            Route("/{path:path}", self._anything, methods=["GET", "POST", "HEAD"]),
        ]
        app = Starlette(routes=routes)
        self._server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="off", timeout_keep_alive=60))
        ready = threading.Event()
        serve = partial(asyncio.run, self._serve(ready))
        self._thread = threading.Thread(target=serve, name="messages-api", daemon=True)
        self._thread.start()
        ready.wait()  # The socket listens already: whoever connects from here on is answered.
        return self

    def __exit__(self, *_: object) -> None:
        assert self._server is not None and self._thread is not None
        self.release()
        self._server.should_exit = self._server.force_exit = True
        self._thread.join(timeout=10)

    async def _serve(self, ready: threading.Event) -> None:
        assert self._server is not None and self._socket is not None
        self._loop = asyncio.get_running_loop()
        ready.set()
        await self._server.serve(sockets=[self._socket])

    @property
    def url(self) -> str:
        """The value for ``ANTHROPIC_BASE_URL``."""
        return f"http://{self._host}:{self._port}"

    @property
    def requests(self) -> list[Seen]:
        """The CLI's requests for its tasks so far, oldest first, without its side requests."""
        return [seen for seen in self.all_requests if seen.kind == "main"]

    @property
    def all_requests(self) -> list[Seen]:
        """Everything posted to ``/v1/messages`` so far, oldest first."""
        with self._changed:
            return list(self._seen)

    def when(self, condition: str | Callable[[Seen], bool], *steps: Step, shared: bool = False) -> None:
        """Answer requests that meet ``condition`` (a text the prompt contains) with ``steps``, in order.

        The last step repeats. Each conversation and prompt begins with the first step, so the same task may run in
        many processes at once; with ``shared`` all requests that match walk through one sequence. Later rules win.
        """
        if not steps:
            raise ValueError("a rule needs at least one step")
        matches = (lambda seen: condition in seen.prompt) if isinstance(condition, str) else condition
        with self._changed:
            self._rules.insert(0, _Rule(matches, steps, shared))

    def release(self) -> None:
        """Let every request held by ``hang()`` go on, those to come included. Safe to call twice."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._released.set)

    def hold_again(self) -> None:
        """Hold what ``hang()`` answers from here on, after a ``release``."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._released.clear)

    def wait_for_request(self, predicate: Callable[[Seen], bool], timeout_s: float = 10.0, *, count: int = 1) -> Seen:
        """Return the ``count``-th request (side requests included) meeting ``predicate``, past ones counted.

        Raises ``RequestNeverCame`` after ``timeout_s`` seconds.
        """

        def found() -> list[Seen]:
            return [seen for seen in self._seen if predicate(seen)]

        with self._changed:
            if not self._changed.wait_for(lambda: len(found()) >= count, timeout_s):
                prompts = [seen.prompt[:80] for seen in self._seen]
                raise RequestNeverCame(f"{len(found())} of {count} requests within {timeout_s} s; prompts: {prompts}")
            return found()[count - 1]

    async def request_came(self, predicate: Callable[[Seen], bool], timeout_s: float = 10.0, *, count: int = 1) -> Seen:
        """``wait_for_request`` for asynchronous tests: the calling loop runs on meanwhile."""
        return await asyncio.to_thread(self.wait_for_request, predicate, timeout_s, count=count)

    # Handlers, all in the server's thread.

    async def _messages(self, request: Request) -> Response:
        seen = _see(await request.json(), request.headers)
        step = self._record_and_choose(seen)
        if step.hold and not await self._held_to_the_end(request):
            return Response(status_code=499)  # The client left; nobody reads this.
        if not step.content:
            return Response(step.body, step.status, headers=dict(step.headers))
        message = _message(step, str(seen.body.get("model", "")))
        if seen.body.get("stream"):
            until = self._released if step.open_end else None
            return StreamingResponse(_events(message, step.chunk_delay_s, until), media_type="text/event-stream")
        return JSONResponse(message)

    def _record_and_choose(self, seen: Seen) -> Step:
        with self._changed:
            self._seen.append(seen)
            self._changed.notify_all()
            if seen.kind == "side":
                return reply('{"title": "stand-in"}')
            for rule in self._rules:
                if rule.matches(seen):
                    return rule.next_step(seen)
        return reply(f"You said: {seen.prompt}" if self._default_reply is None else self._default_reply)

    async def _held_to_the_end(self, request: Request) -> bool:
        """Wait for the release (True) or for the client to hang up (False)."""
        released = asyncio.ensure_future(self._released.wait())
        gone = asyncio.ensure_future(request.receive())  # After the body, only http.disconnect can come.
        await asyncio.wait({released, gone}, return_when=asyncio.FIRST_COMPLETED)
        for waiting in (released, gone):
            waiting.cancel()
        return self._released.is_set()

    async def _count_tokens(self, request: Request) -> Response:
        return JSONResponse({"input_tokens": len(await request.body()) // 4})

    async def _tell_requests(self, _: Request) -> Response:
        fields = ("at_ns", "prompt", "kind", "session_id")
        return JSONResponse([{name: getattr(seen, name) for name in fields} for seen in self.all_requests])

    async def _anything(self, _: Request) -> Response:
        return JSONResponse({})


_ids = iter(range(1, 10**9))


def _message(step: Step, model: str) -> Json:
    content = [{"id": f"toolu_{next(_ids):08d}", **b} if b["type"] == "tool_use" else b for b in step.content]
    stop_reason = "tool_use" if any(b["type"] == "tool_use" for b in content) else "end_turn"
    usage = {"input_tokens": step.input_tokens, "output_tokens": step.output_tokens}
    usage |= {"cache_creation_input_tokens": 0, "cache_read_input_tokens": 0}
    head = {"id": f"msg_{next(_ids):08d}", "type": "message", "role": "assistant", "model": model}
    return {**head, "content": content, "stop_reason": stop_reason, "stop_sequence": None, "usage": usage}


async def _events(message: Json, chunk_delay_s: float, until: asyncio.Event | None = None) -> AsyncIterator[str]:
    """The message as server-sent events, in the order the API sends them; the last one only ``until`` it is set."""

    def event(kind: str, **fields: Any) -> str:
        return f"event: {kind}\ndata: {json.dumps({'type': kind, **fields})}\n\n"

    usage = message["usage"]
    start = {**message, "content": [], "stop_reason": None, "usage": {**usage, "output_tokens": 0}}
    yield event("message_start", message=start)
    for index, block in enumerate(message["content"]):
        if block["type"] == "text":
            empty, words = {**block, "text": ""}, re.findall(r"\s*\S+\s*", block["text"])
            texts = words if chunk_delay_s else [block["text"]]
            deltas = [{"type": "text_delta", "text": text} for text in texts]
        else:
            empty = {**block, "input": {}}
            deltas = [{"type": "input_json_delta", "partial_json": json.dumps(block["input"])}]
        yield event("content_block_start", index=index, content_block=empty)
        for delta in deltas:
            if chunk_delay_s:
                await asyncio.sleep(chunk_delay_s)
            yield event("content_block_delta", index=index, delta=delta)
        yield event("content_block_stop", index=index)
    stop = {"stop_reason": message["stop_reason"], "stop_sequence": None}
    yield event("message_delta", delta=stop, usage=usage)
    if until is not None:
        await until.wait()
    yield event("message_stop")


def _main() -> None:
    parser = argparse.ArgumentParser(description="Serve a stand-in Messages API on loopback until killed.")
    parser.add_argument("--port", type=int, default=0, help="0, the default, means any free one")
    parser.add_argument("--reply", help="the text of every answer; default: an echo of the prompt")
    options = parser.parse_args()
    with MessagesApi(port=options.port, default_reply=options.reply) as api:
        print(json.dumps({"port": api._port, "url": api.url}), flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        _main()
