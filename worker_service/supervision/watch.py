"""What is known of one running task, and whether it is stuck. Time is given to it, so that it can be tried out.

A task is stuck in one of three ways (docs/supervision.md tells why each):
    - its stream is silent, its hooks are silent where there are any, and its processes use no CPU, all at once;
    - its answer is there, and it lives on without working;
    - it goes round the same circle of tool calls, and no background command works meanwhile.
While it waits for something that was announced (a retry, a person's answer) it is never stuck.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from worker_service.agents.base import LifeSigns
from worker_service.supervision.idle_clock import IdleClock
from worker_service.supervision.limits import Limits, Signal
from worker_service.supervision.repeated_calls import RepeatedCalls

SEEMS_STUCK = "The task seems stuck"
"""How every sentence begins that says why."""

_UNHURRIED_S = 4.0
_BEHIND_S = 0.001
_ASKED = "permission_asked"
_ANSWERED = ("permission_answered", "permission_withdrawn")


@dataclass(frozen=True)
class Reading:
    """One signal beyond its limit, in seconds or in rounds."""

    value: float
    limit: float
    unit: str

    def data(self) -> dict[str, float]:
        """Return it for an event."""
        return {self.unit: round(self.value, 3), "limit": self.limit}


class Watch:
    """Judges one task."""

    def __init__(self, limits: Limits, signs: LifeSigns, *, now: float, idle_share: float) -> None:
        """Begin at `now`, a moment of the clock that `signs` go by."""
        self.limits = limits
        self._signs = signs
        self._clock = IdleClock(now, signs.work_seconds(), idle_share=idle_share)
        self._calls = RepeatedCalls()
        self._hook_at = now
        self._wait_over_at = now
        self._questions: set[str] = set()
        self._looked_at = now

    @property
    def rounds(self) -> int:
        """How often it has gone round its circle of tool calls."""
        return self._calls.rounds

    @property
    def goes_round(self) -> bool:
        """Whether it has gone round its circle of tool calls too often."""
        return 0 < self.limits.repeats <= self.rounds

    def note(self, event: str, data: dict[str, Any], now: float) -> None:
        """Take note of an event of the task."""
        if event == "tool_use":
            self._calls.called(str(data.get("id")), str(data.get("name")), data.get("input") or {})
        elif event == "tool_result":
            self._calls.answered(str(data.get("id")), str(data.get("text")), is_error=bool(data.get("is_error")))
        elif event == "hook":
            if data.get("source") == "hook":
                self._hook_at = now
        elif event == "api_retry":
            # The wait was announced, and the silence that follows it counts from its end.
            self._wait_over_at = max(self._wait_over_at, now + float(data.get("wait_s") or 0))
        elif event == _ASKED:
            self._questions.add(str(data.get("question_id")))
        elif event in _ANSWERED:
            self._questions.discard(str(data.get("question_id")))
            self._wait_over_at = max(self._wait_over_at, now)

    def next_look(self, now: float) -> float:
        """Return the moment of the next look: the first one at which there may be something new to see."""
        if self._questions:
            # Nothing counts before the answer, and that is heard of.
            return now + _UNHURRIED_S
        if self._wait_over_at > now:
            return self._wait_over_at
        every_s, signs = self.limits.look_every_s, self._signs
        moments = [signs.heard_at + every_s, now + every_s]
        silent_since = (signs.heard_at, self._hook_at, self._clock.worked_at)
        moments += [max(since, self._wait_over_at) + self.limits.silence_s for since in silent_since]
        if signs.answered_at is not None and self.limits.linger_s > 0:
            since = max(signs.answered_at, self._clock.worked_at, self._wait_over_at)
            moments.append(since + self.limits.linger_s)
        # A moment later, so that the limit has been reached whatever the clock's last digit is.
        return min(moment for moment in moments if moment > now) + _BEHIND_S

    def look(self, now: float) -> dict[Signal, Reading]:
        """Return the signals that call the task stuck now; empty when it is not."""
        if self._questions:
            self._wait_over_at = max(self._wait_over_at, now)
        signs = self._signs
        # While lines come nobody needs to know what CPU time it takes.
        if signs.answered_at is not None or signs.in_background or now >= signs.heard_at + self.limits.look_every_s:
            self._clock.look(now, signs.work_seconds())
        readings = self._readings(now)
        verdict: dict[Signal, Reading] = {}
        for together in self._proofs():
            if all(signal in readings for signal in together):
                verdict |= {signal: readings[signal] for signal in together}
        return verdict

    def _proofs(self) -> list[tuple[Signal, ...]]:
        silence = (Signal.STREAM_SILENCE, *((Signal.HOOK_SILENCE,) if self._signs.hooked else ()), Signal.IDLE_CPU)
        return [silence, (Signal.LINGERING,), (Signal.REPEATED_TOOL,)]

    def _readings(self, now: float) -> dict[Signal, Reading]:
        """Return every signal that is beyond its limit, whatever it means."""
        limits, signs = self.limits, self._signs
        idle_s = now - max(self._clock.worked_at, self._wait_over_at)
        silences = {
            Signal.STREAM_SILENCE: now - max(signs.heard_at, self._wait_over_at),
            Signal.HOOK_SILENCE: now - max(self._hook_at, self._wait_over_at),
            Signal.IDLE_CPU: idle_s,
        }
        found = {
            signal: Reading(seconds, limits.silence_s, "seconds")
            for signal, seconds in silences.items()
            if seconds >= limits.silence_s
        }
        if limits.linger_s > 0 and signs.answered_at is not None:
            lingers_s = min(now - signs.answered_at, idle_s)
            if lingers_s >= limits.linger_s:
                found[Signal.LINGERING] = Reading(lingers_s, limits.linger_s, "seconds")
        works_beside = signs.in_background and idle_s < limits.silence_s
        if self.goes_round and not works_beside and self._wait_over_at <= now:
            found[Signal.REPEATED_TOOL] = Reading(self.rounds, limits.repeats, "count")
        return found

    def sentence(self, verdict: dict[Signal, Reading]) -> str:
        """Return in one sentence why the task counts as stuck."""
        said: list[str] = []
        if Signal.STREAM_SILENCE in verdict:
            silent = "stream and hooks are" if Signal.HOOK_SILENCE in verdict else "stream is"
            least = min(reading.value for signal, reading in verdict.items() if reading.limit == self.limits.silence_s)
            said.append(f"its {silent} silent and its processes have used no CPU for {least:.3g} s")
        if (lingering := verdict.get(Signal.LINGERING)) is not None:
            said.append(f"its answer has been there for {lingering.value:.3g} s and it does not end")
        if (repeated := verdict.get(Signal.REPEATED_TOOL)) is not None:
            tool = self._calls.tool
            said.append(f"it has made the same calls ({tool}) {repeated.value:.0f} times and got the same answers")
        return f"{SEEMS_STUCK}: {'; '.join(said)}."
