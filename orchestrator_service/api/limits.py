"""How much and how often one may send."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from starlette.types import Message, Receive, Scope

from orchestrator_service.api.auth import header
from orchestrator_service.api.problems import ProblemKind, RequestRefused


class RateLimit:
    """A bucket of requests for each token: it fills with time, and each request takes one out."""

    def __init__(self, rate: float, burst: int, clock: Callable[[], float] = time.monotonic) -> None:
        """Limit each name to `rate` requests a second on average and `burst` at once; rate 0 sets no limit."""
        self._rate, self._burst, self._clock = rate, burst, clock
        self._buckets: dict[str, tuple[float, float]] = {}

    def take(self, name: str) -> None:
        """Count one request of `name`.

        Raises:
            RequestRefused: there were too many; `Retry-After` says when the next one is taken.
        """
        if self._rate <= 0:
            return
        now = self._clock()
        left, since = self._buckets.get(name, (float(self._burst), now))
        left = min(float(self._burst), left + (now - since) * self._rate)
        if left < 1:
            self._buckets[name] = (left, now)
            wait = math.ceil((1 - left) / self._rate)
            raise RequestRefused(
                ProblemKind.TOO_MANY_REQUESTS,
                f"{name} sent more than {self._rate:g} requests a second and {self._burst} at once; wait {wait} s.",
                headers={"Retry-After": str(wait)},
            )
        self._buckets[name] = (left - 1, now)


def too_large(most_bytes: int) -> RequestRefused:
    """Return the refusal of a body that is longer than allowed."""
    # The connection stays open, and what is left of the body is dropped as it comes: closed on a client that still
    # sends, it would be reset, and the client would not see why.
    return RequestRefused(
        ProblemKind.TOO_LARGE,
        f"The body has more than the {most_bytes} bytes that are allowed (MAX_REQUEST_BYTES); send less at once.",
    )


def check_length(scope: Scope, most_bytes: int) -> None:
    """Refuse a body that says beforehand that it is too long.

    Raises:
        RequestRefused: it does.
    """
    length = header(scope, b"content-length")
    if length is not None and length.isdecimal() and (len(length) > 18 or int(length) > most_bytes):
        raise too_large(most_bytes)


def limited(receive: Receive, most_bytes: int) -> Receive:
    """Return a `receive` that raises RequestRefused as soon as more of a body has come than is allowed."""
    had = 0

    async def receive_some() -> Message:
        nonlocal had
        message = await receive()
        had += len(message.get("body", b""))
        if had > most_bytes:
            raise too_large(most_bytes)
        return message

    return receive_some
