#!/usr/bin/env python3
"""A Claude Code that does what the prompt says, good or bad: speaks stream-json, knows the SDK's control requests.

`CLAUDE_FAKE_DIR` names a directory. Every start, prompt, clear and interrupt adds a line to `log` in it; a file
`start` there says how new processes begin (`exit`, `hang`, `garbage`, `unclearable`); while a file `hold-clear` is
there, no `/clear` is answered.

Prompts: `die CODE`, `kill`, `hang`, `garbage`, `broken`, `long MIB`, `bare`, `stderr TEXT`, `limit KIND SECONDS
UNIT`, `background`, `leave`, `idle-death`; anything else is answered with itself.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import Any

FOLDER = Path(os.environ["CLAUDE_FAKE_DIR"])


def note(what: str, **fields: Any) -> None:
    line = json.dumps({"what": what, "pid": os.getpid(), **fields}) + "\n"
    descriptor = os.open(FOLDER / "log", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(descriptor, line.encode())
    os.close(descriptor)


def say(**message: Any) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


class FakeClaude:
    """One process with its conversation."""

    def __init__(self, session_id: str) -> None:
        self.session_id = session_id
        self.open_turn = False
        self.cost_usd = 0.0
        """Of the conversation: a result line tells what all its turns have cost."""

    def result(self, text: str, *, subtype: str = "success", is_error: bool = False) -> None:
        if self.open_turn:
            self.cost_usd += 0.01
        self.open_turn = False
        say(
            type="result",
            subtype=subtype,
            is_error=is_error,
            duration_ms=1,
            duration_api_ms=1,
            num_turns=1,
            session_id=self.session_id,
            total_cost_usd=self.cost_usd,
            usage={"input_tokens": 1, "output_tokens": 2},
            result=text,
        )

    def text(self, text: str) -> None:
        content = [{"type": "text", "text": text}]
        say(
            type="assistant",
            message={"role": "assistant", "model": "fake", "content": content},
            parent_tool_use_id=None,
            session_id=self.session_id,
        )

    def clear(self) -> None:
        note("clear", session=self.session_id)
        while (FOLDER / "hold-clear").exists():
            time.sleep(0.005)
        self.session_id = str(uuid.uuid4())
        self.cost_usd = 0.0
        self.result("")

    def control(self, message: dict[str, Any]) -> None:
        subtype = message["request"]["subtype"]
        answer = {"subtype": "success", "request_id": message["request_id"], "response": {}}
        say(type="control_response", response=answer)
        if subtype == "interrupt":
            note("interrupt", session=self.session_id)
            if self.open_turn:
                self.result("", subtype="error_during_execution", is_error=True)

    def prompt(self, text: str) -> None:
        note("prompt", session=self.session_id, prompt=text)
        transcripts = Path(os.environ["HOME"]) / ".claude" / "projects" / "-fake"
        transcripts.mkdir(parents=True, exist_ok=True)
        with (transcripts / f"{self.session_id}.jsonl").open("a") as transcript:
            transcript.write(json.dumps({"prompt": text}) + "\n")
        self.open_turn = True
        say(type="system", subtype="init", session_id=self.session_id, model="fake", cwd=os.getcwd())
        verb, *rest = text.split()
        act = getattr(self, f"do_{verb.replace('-', '_')}", None)
        if act is None:
            self.text(text)
            self.result(f"did {text}")
        else:
            act(*rest)

    def do_die(self, code: str) -> None:
        self.text("I have begun.")
        sys.stderr.write("segfault in the flux capacitor\n")
        sys.stderr.flush()
        os._exit(int(code))

    def do_kill(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def do_hang(self) -> None:
        self.text("I have begun.")

    def do_deaf(self) -> None:
        self.text("I have begun.")
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        while True:
            time.sleep(1000)

    def do_garbage(self) -> None:
        for number in range(1000):
            print("what a lovely day", number)
        sys.stdout.flush()

    def do_broken(self) -> None:
        print('{"type": "assistant", "message": {"content": [')
        sys.stdout.flush()

    def do_long(self, mib: str) -> None:
        sys.stdout.write('{"type": "assistant", "x": "')
        for _ in range(int(mib)):
            sys.stdout.write("x" * 1024 * 1024)
        sys.stdout.write('"}\n')
        sys.stdout.flush()

    def do_bare(self) -> None:
        say(type="result")

    def do_limit(self, kind: str, seconds: str, unit: str, overage: str = "") -> None:
        self.text("I have begun.")
        resets_at = int(time.time() + float(seconds) + 1)
        info: dict[str, Any] = {"status": "rejected", "rateLimitType": kind}
        info["resetsAt"] = resets_at * (1000 if unit == "ms" else 1)
        if overage:
            info["overageStatus"] = overage
        say(type="rate_limit_event", rate_limit_info=info, uuid=str(uuid.uuid4()), session_id=self.session_id)
        if overage:
            self.result("paid for")

    def do_background(self) -> None:
        say(
            type="system",
            subtype="background_tasks_changed",
            tasks=[{"task_id": "b1", "task_type": "shell", "description": "sleep"}],
            session_id=self.session_id,
        )
        self.result("left a background task")

    def do_leave(self) -> None:
        nothing = subprocess.DEVNULL
        child = subprocess.Popen(
            ["sleep", "1000"], stdin=nothing, stdout=nothing, stderr=nothing, start_new_session=True
        )
        self.result(str(child.pid))


def serve(fake: FakeClaude) -> None:
    for line in sys.stdin:
        message = json.loads(line)
        if message["type"] == "control_request":
            fake.control(message)
        elif message["type"] == "user":
            content = message["message"]["content"]
            if content == "/clear":
                fake.clear()
            else:
                fake.prompt(content)


def main() -> None:
    """Begin as told and serve until the input ends."""
    options = dict(word[2:].split("=", 1) for word in sys.argv[1:] if word.startswith("--") and "=" in word)
    resumed = "resume" in options
    session_id = options.get("resume") or options["session-id"]
    note("start", session=session_id, resumed=resumed)
    how = (FOLDER / "start").read_text() if (FOLDER / "start").exists() else ""
    if how == "exit":
        sys.stderr.write("cannot find my own feet\n")
        sys.exit(9)
    if how == "hang":
        time.sleep(1000)
    if how == "garbage":
        print("lovely\n" * 1000, flush=True)
    fake = FakeClaude(session_id)
    if how == "unclearable":
        fake.clear = lambda: fake.result("no", is_error=True)  # type: ignore[method-assign]
    serve(fake)


if __name__ == "__main__":
    main()
