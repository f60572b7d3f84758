"""What a schema says of a value that does not keep to it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydantic import ValidationError

#: Characters of a place that a message has.
SHOWN = 200


def first_problem(error: ValidationError) -> str:
    """Return the place of the first problem, and what it is."""
    first = error.errors(include_url=False, include_context=False)[0]
    place = ".".join(str(part) for part in first["loc"])[:SHOWN]
    return f"{place or 'the whole'}: {message(first)}"


def message(problem: Mapping[str, Any]) -> str:
    """Return what is wrong, of an item of ``ValidationError.errors()``; a check of ours speaks in its own words."""
    return str(problem["msg"]).removeprefix("Value error, ")
