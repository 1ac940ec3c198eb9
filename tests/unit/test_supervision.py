"""When a task counts as stuck, and when it does not; with a clock that the test moves."""

from __future__ import annotations

from typing import Any

import pytest

from worker_service.settings import SupervisionSettings
from worker_service.supervision.idle_clock import IdleClock
from worker_service.supervision.limits import Limits, Signal, limits_of
from worker_service.supervision.repeated_calls import RepeatedCalls
from worker_service.supervision.watch import Watch

SILENCE = {Signal.STREAM_SILENCE, Signal.IDLE_CPU}


class Signs:
    """Signs of life that the test sets."""

    def __init__(self, *, hooked: bool = False) -> None:
        self.heard_at = 0.0
        self.answered_at: float | None = None
        self.hooked = hooked
        self.in_background = False
        self.used_s = 0.0

    def work_seconds(self) -> float:
        return self.used_s


class Case:
    """A task under watch: silent for 100 s, or 30 s after its answer, or five rounds, and it counts as stuck."""

    def __init__(self, *, hooked: bool = False) -> None:
        self.signs = Signs(hooked=hooked)
        limits = Limits(silence_s=100, linger_s=30, repeats=5)
        self.watch = Watch(limits, self.signs, now=0.0, idle_share=0.02)
        self.now = 0.0
        self.stuck: set[Signal] = set()
        self._calls = 0

    def go_on(self, seconds: float, *, cpu_share: float = 0.0, lines: bool = False) -> set[Signal]:
        """Let time pass, with a look every 3 s as the supervisor has it; returns what calls it stuck at the end."""
        end = self.now + seconds
        while self.now < end:
            step = min(3.0, end - self.now)
            self.now += step
            self.signs.used_s += cpu_share * step
            if lines:
                self.signs.heard_at = self.now
            self.stuck = set(self.watch.look(self.now))
        return self.stuck

    def event(self, event: str, **data: Any) -> None:
        """Something is told, which is a line of the stream as well."""
        self.signs.heard_at = self.now
        self.watch.note(event, data, self.now)

    def call(self, answer: str = "same", name: str = "Bash", **tool_input: Any) -> set[Signal]:
        """A tool is called and answers."""
        self._calls += 1
        call_id = str(self._calls)
        self.event("tool_use", id=call_id, name=name, input=tool_input or {"command": "make"})
        self.event("tool_result", id=call_id, text=answer, is_error=False)
        self.stuck = set(self.watch.look(self.now))
        return self.stuck


def test_silence_of_stream_and_cpu_together_counts_and_not_a_moment_sooner() -> None:
    case = Case()
    assert not case.go_on(99)
    assert case.go_on(3) == SILENCE


def test_a_silent_build_is_left_alone_for_as_long_as_it_works() -> None:
    case = Case()
    assert not case.go_on(2400, cpu_share=0.3)
    assert not case.go_on(99)
    assert case.go_on(6) == SILENCE


def test_a_model_that_still_writes_is_left_alone_though_no_cpu_moves() -> None:
    case = Case()
    assert not case.go_on(2400, lines=True)


def test_timers_of_idle_processes_are_no_work() -> None:
    assert Case().go_on(110, cpu_share=0.015) == SILENCE


def test_hooks_that_still_come_speak_for_a_task_where_there_are_hooks() -> None:
    case = Case(hooked=True)
    case.go_on(60)
    case.watch.note("hook", {"hook": "PostToolUse", "source": "hook"}, case.now)
    assert not case.go_on(99)
    assert case.go_on(6) == SILENCE | {Signal.HOOK_SILENCE}


def test_a_hook_that_was_filled_in_from_the_stream_is_no_sign_of_its_own() -> None:
    case = Case(hooked=True)
    case.go_on(60)
    case.watch.note("hook", {"hook": "PostToolUse", "source": "stream"}, case.now)
    assert case.go_on(45) == SILENCE | {Signal.HOOK_SILENCE}


def test_an_announced_retry_is_waited_for() -> None:
    case = Case()
    case.event("api_retry", status=529, attempt=4, wait_s=500.0)
    assert not case.go_on(590)
    assert case.go_on(15) == SILENCE


@pytest.mark.parametrize("end", ["permission_answered", "permission_withdrawn"])
def test_a_question_that_waits_for_a_person_is_waited_for(end: str) -> None:
    case = Case()
    case.event("permission_asked", question_id="q1")
    case.event("permission_asked", question_id="q2")
    case.go_on(3600)
    assert not case.stuck
    case.event(end, question_id="q1")
    assert not case.go_on(3600)
    case.event(end, question_id="q2")
    assert not case.go_on(95)
    assert case.go_on(9) == SILENCE


def test_an_answer_without_an_end_counts_alone() -> None:
    case = Case()
    case.go_on(50, lines=True)
    case.signs.answered_at = case.now
    assert not case.go_on(29)
    assert case.go_on(4) == {Signal.LINGERING}


def test_work_after_the_answer_is_no_lingering() -> None:
    case = Case()
    case.signs.answered_at = 0.0
    assert not case.go_on(600, cpu_share=0.5)
    case.signs.answered_at = None
    assert not case.go_on(60)


def test_the_same_call_with_the_same_answer_counts_alone() -> None:
    case = Case()
    for _ in range(4):
        assert not case.call()
    assert case.call() == {Signal.REPEATED_TOOL}
    assert not case.call(command="something else")


def test_answers_that_change_are_progress() -> None:
    case = Case()
    for number in range(200):
        assert not case.call(answer=f"{number} of 200 done")


def test_other_inputs_are_other_calls() -> None:
    case = Case()
    for number in range(200):
        assert not case.call(command=f"make part-{number}")


def test_looking_at_a_background_build_again_and_again_is_healthy_while_it_builds() -> None:
    case = Case()
    case.signs.in_background = True
    for _ in range(50):
        assert not case.go_on(9, cpu_share=0.8)
        assert not case.call(answer="still running")
    for _ in range(12):
        case.go_on(9)
        case.call(answer="still running")
    assert case.stuck == {Signal.REPEATED_TOOL}


def test_a_circle_of_several_calls_counts_as_well() -> None:
    calls = RepeatedCalls()
    for number in range(15):
        calls.called(str(number), "Bash", {"command": f"step {number % 3}"})
        calls.answered(str(number), "failed", is_error=True)
    assert calls.rounds == 5


def test_an_answer_without_its_call_is_nothing() -> None:
    calls = RepeatedCalls()
    calls.answered("unknown", "text", is_error=False)
    assert calls.rounds == 0


def test_bursts_of_work_reset_the_idle_clock_however_long_it_was_idle() -> None:
    clock = IdleClock(0.0, 0.0, idle_share=0.02)
    clock.look(800, 8.0)
    assert clock.worked_at == 0.0
    clock.look(804, 9.0)
    assert clock.worked_at == 804


def test_cpu_time_that_seems_to_run_backwards_is_no_work() -> None:
    clock = IdleClock(0.0, 5.0, idle_share=0.02)
    for moment in range(1, 50):
        clock.look(float(moment), 5.0 - 0.2 * (moment % 2))
    assert clock.worked_at == 0.0


def test_a_tasks_own_limit_wins_and_zero_of_either_turns_it_off() -> None:
    settings = SupervisionSettings()
    usual, own = limits_of(settings, None), limits_of(settings, 40.0)
    assert usual is not None and usual.silence_s == 900
    assert own is not None and (own.silence_s, own.look_every_s) == (40, 1)
    assert limits_of(settings, 0) is None
    assert limits_of(SupervisionSettings(after_s=0), None) is None
    assert limits_of(SupervisionSettings(after_s=0), 5.0) is None


# -- when it is looked at


def looks_until_stuck(
    case: Case, within_s: float, *, works_until: float = 0.0, talks_until: float = 0.0
) -> list[float]:
    """Look whenever the watch asks for it, and return these moments; the last one found it stuck, or time is over."""
    moments: list[float] = []
    seen_at = 0.0
    while (now := case.watch.next_look(seen_at)) < within_s:
        case.signs.used_s += max(0.0, min(now, works_until) - min(seen_at, works_until))
        # A line every 0.3 s, whoever looks.
        case.signs.heard_at = max(case.signs.heard_at, min(now, talks_until) // 0.3 * 0.3)
        assert now > seen_at
        moments.append(now)
        seen_at = now
        if case.watch.look(now):
            break
    return moments


@pytest.mark.parametrize(
    ("works_until", "talks_until"), [(0.0, 0.0), (0.0, 57.3), (57.3, 0.0), (57.3, 31.0), (31.0, 57.3), (357.5, 2.0)]
)
def test_silence_is_noticed_within_about_a_second_of_its_limit(works_until: float, talks_until: float) -> None:
    moments = looks_until_stuck(Case(), 1000, works_until=works_until, talks_until=talks_until)
    begun = max(works_until, talks_until // 0.3 * 0.3)
    assert 0 <= moments[-1] - (begun + 100) < 1.1
    # Once a second is often enough, and never is it looked at without an end.
    assert len(moments) <= 1.2 * moments[-1] + 5


def test_a_limit_that_is_no_whole_number_of_looks_is_met_to_the_moment() -> None:
    case = Case()
    case.signs.heard_at = 0.25
    moments = looks_until_stuck(case, 1000)
    assert moments[-1] == pytest.approx(100.25, abs=0.01)


def test_an_answer_that_lingers_is_noticed_at_its_limit() -> None:
    case = Case()
    case.signs.heard_at = case.signs.answered_at = 0.4
    moments = looks_until_stuck(case, 1000)
    assert moments[-1] == pytest.approx(30.4, abs=0.01)


def test_a_healthy_task_is_looked_at_for_as_long_as_it_works_and_never_found_stuck() -> None:
    moments = looks_until_stuck(Case(), 900, works_until=1000)
    assert 800 < len(moments) <= 910


def test_what_waits_as_announced_is_not_looked_at_before_its_end() -> None:
    case = Case()
    case.event("api_retry", wait_s=500.0)
    assert looks_until_stuck(case, 490) == []
    assert looks_until_stuck(case, 1000)[-1] == pytest.approx(600, abs=1.1)


def test_what_waits_for_a_person_is_looked_at_seldom() -> None:
    case = Case()
    case.event("permission_asked", question_id="q1")
    assert len(looks_until_stuck(case, 400)) <= 100


def test_short_limits_are_looked_at_more_often() -> None:
    limits = Limits(silence_s=1.0, linger_s=0.5, repeats=0)
    assert (limits.look_every_s, Limits(silence_s=900, linger_s=60, repeats=5).look_every_s) == (0.05, 1.0)
