"""A real Chromium, headless, that may ask the orchestrator and nobody else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from playwright.sync_api import BrowserContext, Page, Request, Route, sync_playwright

from tests.system_packages import find_program

FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
)
DESKTOP = {"width": 1360, "height": 860}
PHONE = {"width": 390, "height": 844}
PATIENCE_MS = 30_000


class StrangeRequest(AssertionError):
    """A page asked another host than the orchestrator's."""


class Window:
    """One visitor: pages that share cookies and storage, and what went wrong in them."""

    def __init__(self, context: BrowserContext, url: str) -> None:
        self.context, self.url = context, url
        self.strange: list[str] = []
        self.complaints: list[str] = []
        context.set_default_timeout(PATIENCE_MS)
        context.set_default_navigation_timeout(PATIENCE_MS)
        context.on("request", self._look_at)
        context.route("**/*", self._pass)

    def _pass(self, route: Route) -> None:
        if self._is_own(route.request.url):
            route.continue_()
        else:
            route.abort()

    def _is_own(self, address: str) -> bool:
        parts = urlsplit(address)
        return parts.scheme in ("data", "blob", "about") or parts.netloc == urlsplit(self.url).netloc

    def _look_at(self, request: Request) -> None:
        if not self._is_own(request.url):
            self.strange.append(request.url)

    def page(self, path: str = "/") -> Page:
        """Open a page of the dashboard."""
        page = self.context.new_page()
        page.on("pageerror", lambda error: self.complaints.append(f"{path}: {error}"))
        page.on("console", self._listen)
        page.goto(f"{self.url}{path}")
        return page

    def _listen(self, message: Any) -> None:
        # The network's own complaints (a refused login, a stopped server) are what some tests are about.
        if (
            message.type == "error"
            and "Failed to load resource" not in message.text
            and "WebSocket" not in message.text
        ):
            self.complaints.append(message.text)

    def check(self) -> None:
        """Fail if a page asked another host, or something went wrong in it."""
        if self.strange:
            raise StrangeRequest(f"asked another host: {self.strange}")
        assert not self.complaints, self.complaints


class Chromium:
    """A browser that makes windows."""

    def __init__(self, launch: Callable[[], Any]) -> None:
        self._launch = launch
        self._browser = launch()

    @contextmanager
    def another(self) -> Iterator[Chromium]:
        """Start one more browser: of the pages of one browser only that in front is painted at once."""
        other = Chromium(self._launch)
        try:
            yield other
        finally:
            other.close()

    def close(self) -> None:
        """End the browser."""
        self._browser.close()

    @contextmanager
    def window(
        self,
        url: str,
        *,
        size: dict[str, int] | None = None,
        scheme: str = "light",
        touch: bool = False,
        timezone: str = "UTC",
    ) -> Iterator[Window]:
        """Open a window on the dashboard at `url`; what went wrong in it fails the test at the end."""
        context = self._browser.new_context(
            viewport=size or DESKTOP,
            color_scheme=scheme,
            has_touch=touch,
            is_mobile=touch,
            reduced_motion="reduce",
            locale="en-GB",
            timezone_id=timezone,
            service_workers="block",
        )
        window = Window(context, url)
        try:
            yield window
        finally:
            context.close()
        window.check()


def find_chromium() -> str | None:
    """Return the path of Chromium; as root it is installed where it is missing."""
    return find_program("chromium", "chromium")


@contextmanager
def open_chromium(program: str, profile: Path) -> Iterator[Chromium]:
    """Start a browser; it keeps what it must keep below `profile`."""
    with sync_playwright() as playwright:

        def launch() -> Any:
            return playwright.chromium.launch(
                executable_path=program,
                headless=True,
                args=list(FLAGS),
                env={"HOME": str(profile), "PATH": "/usr/bin:/bin", "TMPDIR": str(profile)},
                chromium_sandbox=False,
            )

        chromium = Chromium(launch)
        try:
            yield chromium
        finally:
            chromium.close()
