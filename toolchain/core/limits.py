"""Limits on what strangers' files may ask of this machine: each has a name, a default, and a variable that sets it.

``TOOLCHAIN_LIMIT_ROWS=5000000 toolchain run ...`` reads a data set of five million rows.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from toolchain.core.errors import ToolchainError

_MIB = 1 << 20

#: How the variable is called that sets a limit.
PREFIX = "TOOLCHAIN_LIMIT_"


@dataclass(frozen=True)
class Limit:
    """One limit.

    Attributes:
        default: Its value where nothing sets it.
        what: What is counted, as a message says it.
    """

    default: int
    what: str


LIMITS = {
    "recipe_bytes": Limit(_MIB, "bytes of a recipe, or of a value given on the command line"),
    "recipe_values": Limit(10_000, "values of a recipe, those that aliases repeat included"),
    "nesting": Limit(64, "levels of lists and mappings inside each other"),
    "json_bytes": Limit(64 * _MIB, "bytes of a JSON file"),
    "tokenizer_bytes": Limit(256 * _MIB, "bytes of tokenizer.json"),
    "file_bytes": Limit(65_536 * _MIB, "bytes of one file of a model, a graph, an engine or a data set"),
    "folder_files": Limit(10_000, "files of one folder"),
    "data_bytes": Limit(1024 * _MIB, "bytes of one data file, unpacked"),
    "rows": Limit(1_000_000, "rows of one data file"),
    "layers": Limit(512, "layers of a model"),
    "hidden_size": Limit(32_768, "width of a model"),
    "heads": Limit(1_024, "attention heads of a layer"),
    "vocabulary": Limit(4_000_000, "tokens of a vocabulary"),
    "positions": Limit(1_048_576, "tokens of a model's longest input"),
    "labels": Limit(100_000, "labels of a model"),
    "door_seconds": Limit(30, "seconds in which a stranger's tokenizer or graph must be read"),
    "door_mib": Limit(4_096, "MiB of memory in which a stranger's tokenizer or graph must be read"),
    "convert_seconds": Limit(1_800, "seconds in which a vendor's converter must read a graph"),
}


def limit(name: str) -> int:
    """Return a limit: its default, or what its variable says.

    Raises:
        ToolchainError: The variable holds no whole number above zero.
    """
    variable = variable_of(name)
    return whole_number(variable, LIMITS[name].default, least=1)


def variable_of(name: str) -> str:
    """Return the name of the variable that sets a limit."""
    return PREFIX + name.upper()


def way_out(name: str) -> str:
    """Return the hint of an error about something beyond a limit."""
    return f"if you trust it, allow more with {variable_of(name)} (now {limit(name):,}: {LIMITS[name].what})"


def whole_number(variable: str, default: int, *, least: int = 0, most: int = 2**53, first: bool = False) -> int:
    """Return the whole number that an environment variable holds, or a default where it is unset or empty.

    Args:
        variable: Its name.
        default: The number where it is not set.
        least: The least number that is allowed.
        most: The greatest number that is allowed.
        first: Whether it may hold a list, whose first number counts, as ``OMP_NUM_THREADS=4,2``.

    Raises:
        ToolchainError: It holds something else, or a number that is not allowed.
    """
    text = os.environ.get(variable, "").strip()
    if not text:
        return default
    text = text.partition(",")[0].strip() if first else text
    if not (text.isascii() and text.isdigit() and len(text) < 20 and least <= int(text) <= most):
        allowed = f"{least:,} or more" if most == 2**53 else f"{least:,} to {most:,}"
        raise ToolchainError(
            f"the environment variable {variable} is {text[:80]!r}; a whole number is allowed, {allowed}",
            f"unset {variable}, or set it to a number",
        )
    return int(text)
