"""Fixtures of the integration tier."""

from __future__ import annotations

import pytest

from agent_bus.layout import WorkerLayout
from tests.integration.harness import Shop


@pytest.fixture
def shop(layout: WorkerLayout) -> Shop:
    """The shared directory of worker `marie`, with its directories made."""
    return Shop(layout)
