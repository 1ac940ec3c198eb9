"""Runs the suite as `make test` does: a few tests that fail beside others run once more, alone, and both are told.

Some tests start whole teams, kill them and drive browsers, three at a time. One that fails there and passes alone has
found a race, in the product or in itself; that is told, and kept apart from what is simply broken.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

MOST_RUN_AGAIN = 4
"""More failures than that are no accident: they stand."""


def run_suite(options: list[str]) -> int:
    """Run pytest with these options; return its exit code, or 0 where what had failed passed alone."""
    with tempfile.TemporaryDirectory(prefix="codehornets-suite-") as cache:
        code = _pytest([*options, "-o", f"cache_dir={cache}"])
        failed = _failed(Path(cache))
    if code != pytest.ExitCode.TESTS_FAILED or not 0 < len(failed) <= MOST_RUN_AGAIN:
        return code
    _tell(f"{len(failed)} failed; once more, alone:", failed)
    code = _pytest(["--numprocesses=0", "-p", "no:cacheprovider", *failed])
    if code == pytest.ExitCode.OK:
        _tell("FLAKY: failed beside other tests and passed alone. Each of them has found a race; look for it:", failed)
    return code


def _pytest(options: list[str]) -> int:
    return subprocess.run([sys.executable, "-m", "pytest", *options], check=False).returncode


def _failed(cache: Path) -> list[str]:
    try:
        return sorted(json.loads((cache / "v" / "cache" / "lastfailed").read_bytes()))
    except FileNotFoundError:
        return []


def _tell(message: str, tests: list[str]) -> None:
    print(f"\n{message}", *(f"  {test}" for test in tests), sep="\n", flush=True)


if __name__ == "__main__":
    # Ctrl-C is for pytest, which ends what the tests have started; one that waits for it would kill it meanwhile.
    signal.signal(signal.SIGINT, lambda *_: None)
    sys.exit(run_suite(sys.argv[1:]))
