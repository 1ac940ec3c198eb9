"""Moments in a query: with a zone, in UTC from then on."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated, Final

from pydantic import AfterValidator, AwareDatetime, BeforeValidator

_OFFSET_AFTER_SPACE: Final = re.compile(r"(.*\d:\d\d.*) (\d\d:?\d\d)")


def _moment(given: object) -> object:
    # The plus sign of an offset that was not encoded arrives as a space.
    if isinstance(given, str) and (found := _OFFSET_AFTER_SPACE.fullmatch(given)):
        return f"{found[1]}+{found[2]}"
    return given


def _in_utc(moment: datetime) -> datetime:
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise ValueError("allowed are the years 1 to 9999, in UTC") from None


Moment = Annotated[AwareDatetime, BeforeValidator(_moment), AfterValidator(_in_utc)]
