"""What a service answers on its HTTP port."""

from __future__ import annotations

import http.client
from collections.abc import Iterator
from typing import Final

from orchestrator_service.field_check.subject import Subject
from orchestrator_service.findings import Finding, Grade

_PATIENCE_S: Final = 3.0
_ANY_ADDRESS: Final = frozenset(("", "0.0.0.0", "::", "*"))


def check_http(subject: Subject) -> Iterator[Finding]:
    """Ask `/healthz` and `/readyz`."""
    for page in ("/healthz", "/readyz"):
        yield _check_page(subject, page)


def _check_page(subject: Subject, page: str) -> Finding:
    if not subject.is_here:
        return Finding(page, Grade.LEFT_OUT, f"it runs elsewhere, as {subject.beat.instance}", "check it there")
    host, port = address_of(subject), subject.beat.http_port
    try:
        status, body = fetch(subject, page)
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        mend = f"see `codehornets logs {subject.name}`; if nothing there tells why, start it anew"
        return Finding(page, Grade.BROKEN, f"no answer from {host}:{port} ({reason})", mend)
    if status == 200:
        return Finding(page, Grade.GOOD, f"200 from {host}:{port}")
    bad = [line.removeprefix("FAIL ") for line in body.splitlines() if line.startswith("FAIL ")]
    told = "; ".join(bad[:3]) or body.strip()[:200]
    return Finding(page, Grade.BROKEN, f"{status} from {host}:{port}: {told}", "mend the parts that it names")


def address_of(subject: Subject) -> str:
    """Return where it listens."""
    host = subject.settings.get("HTTP_HOST", "")
    return "127.0.0.1" if host in _ANY_ADDRESS else host


def fetch(subject: Subject, page: str) -> tuple[int, str]:
    """Return the status and the body of a page.

    Raises:
        OSError: nobody answers.
        http.client.HTTPException: the answer cannot be understood.
    """
    connection = http.client.HTTPConnection(address_of(subject), subject.beat.http_port, timeout=_PATIENCE_S)
    try:
        connection.request("GET", page)
        response = connection.getresponse()
        return response.status, response.read().decode("utf-8", "replace")
    finally:
        connection.close()


def counted(subject: Subject, metric: str, **labels: str) -> float | None:
    """Return a number from `/metrics`; None where it cannot be asked for."""
    if not subject.is_here:
        return None
    try:
        status, body = fetch(subject, "/metrics")
    except (OSError, http.client.HTTPException):
        return None
    if status != 200:
        return None
    wanted = [f'{name}="{value}"' for name, value in labels.items()]
    for line in body.splitlines():
        if line.startswith(metric) and all(label in line for label in wanted):
            return float(line.rpartition(" ")[2])
    # A series with labels is there from its first event on.
    return 0.0
