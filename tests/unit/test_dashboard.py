"""What the dashboard stands on: sessions, attempts to log in, files, and Markdown as a tree."""

from __future__ import annotations

import gzip
import json
import re
import stat
from pathlib import Path
from typing import Any

import pytest

from orchestrator_service.dashboard.assets import STATIC, Assets
from orchestrator_service.dashboard.attempts import FREE, LONGEST_S, Attempts
from orchestrator_service.dashboard.markdown_tree import LONGEST, markdown_tree
from orchestrator_service.dashboard.sessions import MOST_SESSIONS, Sessions
from orchestrator_service.dashboard.shell import is_page, shell, wants_page

TOKENS = {"admin": b"digest-of-one", "guest": b"digest-of-two"}


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


# -- sessions


def test_a_session_is_found_by_its_secret_until_its_time_is_over() -> None:
    clock = Clock()
    sessions = Sessions(TOKENS, lasts_s=60, clock=clock)
    secret, lasts_s = sessions.open("guest")
    found = sessions.find(secret)
    assert found is not None and (found.name, lasts_s, sessions.left_s(found)) == ("guest", 60, 60)
    assert sessions.find(secret + "x") is None and sessions.find("") is None
    clock.now += 60
    assert sessions.find(secret) is None


def test_a_session_that_is_closed_is_over_and_says_so() -> None:
    sessions = Sessions(TOKENS, lasts_s=60)
    secret, _ = sessions.open("admin")
    session = sessions.find(secret)
    assert session is not None and not session.ended.is_set()
    sessions.close(secret)
    sessions.close(secret)
    assert session.ended.is_set() and sessions.find(secret) is None


def test_the_file_outlives_the_process_and_holds_no_secret(tmp_path: Path) -> None:
    file = tmp_path / "sessions.json"
    secret, _ = Sessions(TOKENS, lasts_s=60, file=file).open("admin")
    assert secret not in file.read_text() and "digest-of-one" not in file.read_text()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    again = Sessions(TOKENS, lasts_s=60, file=file)
    assert again.find(secret) is not None
    changed = Sessions({**TOKENS, "admin": b"another"}, lasts_s=60, file=file)
    assert changed.find(secret) is None, "another token of the same name is somebody else"
    again.close(secret)
    assert Sessions(TOKENS, lasts_s=60, file=file).find(secret) is None


@pytest.mark.parametrize("content", ["", "{", "7", '[["a"]]', "[[1, 2, 3, null]]"])
def test_a_file_that_cannot_be_read_costs_the_sessions_only(tmp_path: Path, content: str) -> None:
    file = tmp_path / "sessions.json"
    file.write_text(content)
    sessions = Sessions(TOKENS, lasts_s=60, file=file)
    assert sessions.find(sessions.open("admin")[0]) is not None


def test_sessions_are_bounded() -> None:
    clock = Clock()
    sessions = Sessions(TOKENS, lasts_s=60, clock=clock)
    first, _ = sessions.open("admin")
    ended = sessions.find(first)
    for _ in range(MOST_SESSIONS):
        clock.now += 0.001
        last, _ = sessions.open("admin")
    assert sessions.find(first) is None and sessions.find(last) is not None
    assert ended is not None and ended.ended.is_set()


# -- attempts


def test_failures_make_the_next_attempt_wait_longer_and_longer() -> None:
    clock = Clock()
    attempts = Attempts(clock)
    for _ in range(FREE - 1):
        attempts.failed("here")
    assert attempts.wait_s("here") == 0
    waits = []
    for _ in range(10):
        attempts.failed("here")
        waits.append(attempts.wait_s("here"))
    assert waits == sorted(waits) and waits[0] == 1 and waits[-1] == LONGEST_S
    assert attempts.wait_s("elsewhere") == 0
    clock.now += LONGEST_S
    assert attempts.wait_s("here") == 0
    attempts.succeeded("here")
    attempts.failed("here")
    assert attempts.wait_s("here") == 0


# -- files


def test_every_file_has_an_address_that_goes_with_its_content(tmp_path: Path) -> None:
    (tmp_path / "a.js").write_text("x" * 1000)
    first = Assets(tmp_path)
    found = first.find(first.mark, "a.js")
    assert found is not None and found.compressed is not None
    assert gzip.decompress(found.compressed) == found.content == b"x" * 1000
    assert first.find("another", "a.js") is None and first.find(first.mark, "../a.js") is None
    (tmp_path / "a.js").write_text("y" * 1000)
    assert Assets(tmp_path).mark != first.mark


def test_the_modules_import_each_other_only_and_make_no_markup() -> None:
    for path in STATIC.rglob("*.js"):
        text = path.read_text()
        for wanted in re.findall(r"from \"([^\"]+)\"", text):
            assert wanted.startswith(".") and (path.parent / wanted).resolve().is_file(), (path.name, wanted)
        words = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|DOMParser|srcdoc"
        assert not re.search(words, text), path.name
    # What is named is an address of a namespace, never asked for.
    strange = {
        found for path in STATIC.rglob("*.*") for found in re.findall(r"https?://[a-z][^\"' )>]+", path.read_text())
    }
    assert strange == {"http://www.w3.org/2000/svg"}


def test_the_shell_names_files_that_are_there_and_nothing_of_the_team() -> None:
    assets = Assets()
    page = shell(assets, "1.2.3").decode()
    named = re.findall(r"(?:href|src)=\"(/static/[^\"]+)\"", page)
    assert len(named) > 20
    for address in named:
        mark, _, name = address.removeprefix("/static/").partition("/")
        assert assets.find(mark, name) is not None, address
    assert "<script>" not in page and "style=" not in page


@pytest.mark.parametrize(
    ("path", "page"),
    [
        ("/", True),
        ("/tasks", True),
        ("/tasks/t-1+2", True),
        ("/login", True),
        ("/tasks/a/b", False),
        ("/api/v1/tasks", False),
        ("/session", False),
        ("/rendered/tasks/x", False),
        ("//tasks", False),
    ],
)
def test_pages_are_told_from_what_needs_a_token(path: str, page: bool) -> None:
    assert is_page(path) is page


def test_only_a_browser_gets_a_page_where_there_is_none() -> None:
    assert wants_page("GET", "/nowhere", "text/html,*/*")
    assert not wants_page("GET", "/nowhere", "application/json")
    assert not wants_page("POST", "/nowhere", "text/html")
    for path in ("/api/v1/x", "/rendered/tasks/x", "/session", "/mcp/x"):
        assert not wants_page("GET", path, "text/html")


# -- Markdown


def flat(nodes: list[Any]) -> list[dict[str, Any]]:
    found = []
    for node in nodes:
        if isinstance(node, dict):
            found += [node, *flat(node["children"])]
    return found


def test_markdown_becomes_a_tree() -> None:
    tree = markdown_tree("# A *b*\n\n3. one\n4. two\n\n| h |\n|---|\n| c |\n\n```py\nx<y\n```\n")
    assert tree[0] == {"tag": "h1", "children": ["A ", {"tag": "em", "children": ["b"]}]}
    assert tree[1] == {
        "tag": "ol",
        "children": [{"tag": "li", "children": ["one"]}, {"tag": "li", "children": ["two"]}],
        "start": 3,
    }
    assert tree[-1] == {"tag": "pre", "children": [{"tag": "code", "children": ["x<y\n"]}], "lang": "py"}
    assert {"table", "th", "td"} <= {node["tag"] for node in flat(tree)}


@pytest.mark.parametrize(
    "address",
    ["javascript:alert(1)", "JaVaScRiPt:alert(1)", "data:text/html,x", "vbscript:x", "file:///etc/passwd", "/x"],
)
def test_links_lead_to_the_web_or_to_mail_only(address: str) -> None:
    tree = markdown_tree(f"[a]({address}) <{address}> ![b]({address})\n\n[r]\n\n[r]: {address}")
    assert not [node for node in flat(tree) if node["tag"] == "a" or "href" in node]
    assert [node["href"] for node in flat(markdown_tree("[a](https://a.example) <mailto:b@c.example>"))[1:]] == [
        "https://a.example",
        "mailto:b@c.example",
    ]


def test_html_stays_text_and_pictures_are_named() -> None:
    tree = markdown_tree("<b>x</b> <script>y</script>\n\n<div onclick=z>\n\n![cat](https://a.example/cat.png)")
    assert {node["tag"] for node in flat(tree)} == {"p", "a"}
    assert "<script>y</script>" in json.dumps(tree) and "[image: cat]" in json.dumps(tree)


STRANGE = {"nothing": "", "links": "[" * 5000, "quotes": "> " * 5000, "stars": "*" * 5000, "ticks": "`" * 5000}
STRANGE |= {"lists": "- " * 3000, "bars": "|" * 3000, "surrogates": "\0\ud800"}


@pytest.mark.parametrize("text", STRANGE.values(), ids=STRANGE)
def test_no_text_is_too_strange(text: str) -> None:
    json.dumps(markdown_tree(text))


def test_what_is_too_long_is_cut() -> None:
    assert len(json.dumps(markdown_tree("a" * (LONGEST + 5000)))) < LONGEST + 1000
