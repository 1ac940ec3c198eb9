"""A leash: the small parent of one agent process, that ends the agent's whole family when its own owner is gone.

It is run as a script of its own, `python -I -S leash.py OWNER-PID -- PROGRAM ARGUMENT…`, and imports nothing but the
standard library. A shell command of an agent has its own session and process group, and may detach itself altogether;
so neither killing a group nor a parent-death signal to the agent alone would reach it. The leash is the subreaper
(prctl(2)) of everything below it: whatever loses its parent becomes its child, and it leaves only when it has none.

Signals to the leash:
    SIGTERM, SIGINT, SIGHUP   ask the agent to end; what is left after a moment is killed
    SIGUSR1                   kill everything now; also what the kernel sends when the owner dies, `kill -9` included
    SIGTSTP, SIGCONT          freeze the agent, and let it go on
The leash's own end is the agent's: the same exit code, or the same signal.
"""

import contextlib
import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_POLITE_S = 3.0
_HEARD = {
    signal.SIGCHLD,
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGTSTP,
    signal.SIGCONT,
}


def _prctl(option: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, value, 0, 0, 0) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def _start(command: list[str]) -> int:
    leash = os.getpid()
    child = os.fork()
    if child:
        return child
    try:
        os.setpgid(0, 0)
        # Should somebody kill the leash itself, the agent at least goes with it.
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != leash:
            os._exit(1)
        # Python ignores the first two (`yes | head` would never end), and a script the others in what it starts with
        # `&` (an interrupt would be none). What is ignored stays so.
        for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT, signal.SIGQUIT):
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, set())
        os.execvpe(command[0], command, _given_environment())
    except OSError as error:
        os.write(2, f"{command[0]} cannot be started: {error.strerror}\n".encode())
    finally:
        os._exit(127)


def _given_environment() -> dict[bytes, bytes]:
    # Not `os.environ`: Python adds LC_CTYPE to it where the locale is C (PEP 538). The kernel kept the original.
    with open("/proc/self/environ", "rb") as listing:
        entries = (entry.partition(b"=") for entry in listing.read().split(b"\0") if entry)
        return {name: value for name, _, value in entries if name}


def _children() -> list[int]:
    own = os.getpid()
    try:
        with open(f"/proc/{own}/task/{own}/children", encoding="ascii") as listing:
            return [int(word) for word in listing.read().split()]
    except OSError:
        # A kernel without CONFIG_PROC_CHILDREN.
        found = []
        for entry in os.listdir("/proc"):
            try:
                with open(f"/proc/{entry}/stat", encoding="utf-8", errors="replace") as stat:
                    parent = stat.read().rpartition(")")[2].split()[1]
            except (OSError, IndexError):
                continue
            if entry.isdigit() and int(parent) == own:
                found.append(int(entry))
        return found


def _signal(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


class _Family:
    """The agent and all its descendants."""

    def __init__(self, agent: int) -> None:
        self.agent = agent
        self.status: int | None = None

    def reap(self) -> None:
        """Take note of everyone who has ended."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid == self.agent:
                self.status = status

    def kill(self) -> None:
        """Kill until there is nobody left. Orphans become children of this process, so each round finds them."""
        while True:
            for pid in _children():
                _signal(pid, signal.SIGKILL)
            try:
                pid, status = os.waitpid(-1, 0)
            except ChildProcessError:
                return
            if pid == self.agent:
                self.status = status


def _watch(family: _Family) -> None:
    """Return when the agent has ended or everything is to be killed."""
    while family.status is None:
        number = signal.sigwait(_HEARD)
        if number == signal.SIGCHLD:
            family.reap()
        elif number == signal.SIGUSR1:
            return
        elif number == signal.SIGTSTP:
            _signal(-family.agent, signal.SIGSTOP)
        elif number == signal.SIGCONT:
            _signal(-family.agent, signal.SIGCONT)
        else:
            _ask_to_end(family)
            return


def _ask_to_end(family: _Family) -> None:
    # A frozen process cannot act on a request.
    _signal(-family.agent, signal.SIGCONT)
    _signal(family.agent, signal.SIGTERM)
    while family.status is None:
        heard = signal.sigtimedwait({signal.SIGCHLD, signal.SIGUSR1}, _POLITE_S)
        if heard is None or heard.si_signo == signal.SIGUSR1:
            return
        family.reap()


def main() -> None:
    """Hold one agent."""
    owner, command = int(sys.argv[1]), sys.argv[3:]
    signal.pthread_sigmask(signal.SIG_BLOCK, _HEARD)
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    _prctl(_PR_SET_PDEATHSIG, signal.SIGUSR1)
    if os.getppid() != owner:
        # The owner died before the kernel was told to tell.
        os._exit(1)
    family = _Family(_start(command))
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        # The agent's pipes must close when the agent closes them.
        os.dup2(nothing, descriptor)
    _watch(family)
    family.kill()
    status = family.status if family.status is not None else signal.SIGKILL
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        if number not in (signal.SIGKILL, signal.SIGSTOP):
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})
        os.kill(os.getpid(), number)
    os._exit(os.waitstatus_to_exitcode(status) & 0xFF)


if __name__ == "__main__":
    main()
