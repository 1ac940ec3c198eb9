"""The browser, shared by the tests of a module: it takes a second to start."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import expect

from tests.browser.chromium import PATIENCE_MS, Chromium, find_chromium, open_chromium

expect.set_options(timeout=PATIENCE_MS)


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    program = find_chromium()
    if program is None:
        pytest.skip("no Chromium here, and it cannot be installed")
    with open_chromium(program, tmp_path_factory.mktemp("chromium")) as browser:
        yield browser
