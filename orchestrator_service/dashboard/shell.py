"""The page that every address of the dashboard begins with, and the headers that bound what it may do."""

from __future__ import annotations

import re
from html import escape
from typing import Final

from orchestrator_service.dashboard.assets import Assets

_PAGES: Final = re.compile(r"/(?:tasks(?:/[^/]+)?|goals(?:/[^/]+)?|inbox|usage|login)?")

_NO_PAGES: Final = ("/api/", "/mcp", "/rendered/", "/session")

CONTENT_SECURITY_POLICY: Final = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",
        "connect-src 'self'",
        # Text can become neither markup nor code, whatever a module of the page does by mistake.
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
        "form-action 'self'",
    )
)
SECURITY_HEADERS: Final = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=(), payment=(), usb=()",
}


def is_page(path: str) -> bool:
    """Tell whether an address is one of the dashboard's pages."""
    return _PAGES.fullmatch(path) is not None


def wants_page(method: str, path: str, accept: str) -> bool:
    """Tell whether a person's browser asks for a page, at an address that may lead nowhere."""
    return method == "GET" and "text/html" in accept and not path.startswith(_NO_PAGES)


def shell(assets: Assets, version: str) -> bytes:
    """Return the page; it holds nothing of the team, and is the same for everybody."""
    # Without these lines the browser would find the modules one after the other, each by the import of another.
    modules = "".join(f'<link rel="modulepreload" href="{assets.url(name)}">' for name in assets.names(".js"))
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark"><title>codehornets</title>'
        f'<link rel="icon" href="{assets.url("icon.svg")}" type="image/svg+xml">'
        f'<script src="{assets.url("first.js")}"></script>'
        f'<link rel="stylesheet" href="{assets.url("style.css")}">{modules}'
        f'<script type="module" src="{assets.url("main.js")}"></script></head>'
        f'<body data-version="{escape(version, quote=True)}"><div id="app"></div>'
        "<noscript><p>The dashboard needs JavaScript. Without it, use the command <code>codehornets top</code>, or the "
        'API that <a href="/docs">/docs</a> describes.</p></noscript></body></html>'
    ).encode()
