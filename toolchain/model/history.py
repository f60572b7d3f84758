"""What ``history.json`` of a model folder holds: the techniques that were applied, in order, and what it began as."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from toolchain.core import documents
from toolchain.core.errors import ModelError

#: Its name.
HISTORY = "history.json"

_HINT = "copy or make it again"


def applied(folder: Path) -> list[dict[str, Any]]:
    """Return the techniques that were applied, in order, with their settings; empty where none is recorded.

    Raises:
        ModelError: The file is not what this program writes; the message names the place.
    """
    return list(_read(folder).get("techniques", ()))


def origin(folder: Path) -> dict[str, str]:
    """Return the model that a folder began as: ``source`` and ``digest``; empty where that is not recorded.

    Raises:
        ModelError: As ``applied``.
    """
    return dict(_read(folder).get("origin", {}))


def _read(folder: Path) -> dict[str, Any]:
    from pydantic import ValidationError

    from toolchain.core.schema import first_problem

    path = folder / HISTORY
    if not path.is_file():
        return {}
    value = documents.read_object(path, ModelError, _HINT)
    try:
        _typed().model_validate(value)
    except ValidationError as error:
        raise ModelError(f"{path} is not what this program writes: {first_problem(error)}", _HINT) from error
    return value


@cache
def _typed() -> Any:
    from pydantic import BaseModel, ConfigDict, JsonValue

    class Entry(BaseModel):
        model_config = ConfigDict(strict=True, extra="ignore")
        stage: str = ""
        technique: str = ""
        config: dict[str, JsonValue] | None = None

    class History(BaseModel):
        model_config = ConfigDict(strict=True, extra="ignore")
        techniques: list[Entry] = []
        origin: dict[str, str] = {}

    return History
