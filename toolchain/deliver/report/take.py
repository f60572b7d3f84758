"""The command that writes one engine of a report into a folder."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

#: Options of a run that a build does not take, and whether each has a value.
_LEFT_OUT = {"--check": False, "--junit": True, "--variant": True}


def take(made: str, line: Mapping[str, Any], lines: Sequence[Mapping[str, Any]], store: str = "") -> str:
    """Return the command that writes an engine into the folder ``engine``; empty where no recipe made it.

    Args:
        made: The command that makes the report again.
        line: The engine: its ``model``, ``variant``, ``engine`` and ``seed``.
        lines: Every engine of the report.
        store: The store's folder where it is not the default.
    """
    try:
        words = shlex.split(made)
    except ValueError:  # quotes that do not close: nothing of ours wrote this
        return ""
    if words[:2] != ["toolchain", "run"]:
        return ""
    arguments, skip = [], False
    for word in words[2:]:
        if skip or word in _LEFT_OUT:
            skip = not skip and _LEFT_OUT[word]
            continue
        arguments.append(word)
    models, seeds = ({each[part] for each in lines} for part in ("model", "seed"))
    arguments += ["--set", f"seeds=[{line['seed']}]"] if len(seeds) > 1 else []
    arguments += ["--store", store] if store else []
    variant = f"{line['model']}/{line['variant']}" if len(models) > 1 else str(line["variant"])
    return shlex.join(
        ["toolchain", "build", *arguments, "--variant", variant, "--engine", str(line["engine"]), "-o", "engine"]
    )
