"""Reads JSON and YAML that strangers wrote, within the limits of :mod:`toolchain.core.limits`.

What is too large, too deep, multiplied by aliases, or not what it claims to be becomes one error with its place.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, NoReturn

from toolchain.core import disk, limits
from toolchain.core.errors import ToolchainError
from toolchain.core.failure import summary

#: Half of a character that is written with an escape.
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def read_object(path: Path, error: type[ToolchainError], hint: str = "", absent: str = "") -> dict[str, Any]:
    """Return the JSON object that a file holds.

    Args:
        path: A regular file.
        error: The class of the error.
        hint: What to do about a file that is damaged.
        absent: What to do about a file that is missing.

    Raises:
        ToolchainError: Of that class; the file is missing, cannot be read, is beyond a limit, or holds no object.
    """
    value = read_json(path, error, hint, absent)
    if not isinstance(value, dict):
        raise error(f"{path} holds {_kind(value)}, not a JSON object", hint)
    return value


def read_json(path: Path, error: type[ToolchainError], hint: str = "", absent: str = "") -> Any:
    """Return the JSON value that a file holds; the arguments and errors are those of :func:`read_object`."""
    try:
        text = disk.read_bounded(path)
    except FileNotFoundError as caught:
        raise error(f"{path} is missing", absent) from caught
    except OSError as caught:
        raise error(f"{path} cannot be read: {caught.strerror}", hint) from caught
    except ToolchainError as caught:
        raise error(caught.message, caught.hint) from caught
    return parse_json(text, str(path), error, hint)


def parse_json(
    text: str | bytes, where: str, error: type[ToolchainError], hint: str = "", *, halves: bool = False,
    finite: bool = False,
) -> Any:  # fmt: skip
    """Return the value of a JSON text.

    Args:
        text: The text; bytes are UTF-8.
        where: Its place, for errors.
        error: The class of the error.
        hint: What to do about it.
        halves: Whether texts may hold halves of characters, which the caller looks for itself.
        finite: Whether NaN and Infinity, which Python writes and JSON has not, are refused.

    Raises:
        ToolchainError: Of that class; it is no JSON, too deep, or holds halves of characters.
    """
    try:
        text = text.decode("utf-8-sig") if isinstance(text, bytes) else text
        value = json.loads(text, parse_constant=_refuse_constant if finite else None)
        if not halves and _SURROGATE.search(text):
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except RecursionError as caught:
        raise _too_deep(where, error) from caught
    except UnicodeError as caught:
        raise error(f"{where} holds what is not UTF-8 text: {summary(caught)}", hint) from caught
    except ValueError as caught:
        raise error(f"{where} is not valid JSON: {caught}", hint) from caught
    if text.count("[") + text.count("{") > limits.limit("nesting") and _is_deep(value, limits.limit("nesting")):
        raise _too_deep(where, error)
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number")


def _is_deep(value: Any, most: int) -> bool:
    level = [value]
    for _ in range(most + 1):
        inner: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                inner += item.values()
            elif isinstance(item, list):
                inner += item
        level = [item for item in inner if isinstance(item, dict | list)]
        if not level:
            return False
    return True


def _too_deep(where: str, error: type[ToolchainError]) -> ToolchainError:
    return error(f"{where}: lists and objects stand in each other more than {limits.limit('nesting')} levels deep",
                 limits.way_out("nesting"))  # fmt: skip


def _kind(value: Any) -> str:
    kinds = {bool: "true or false", list: "an array", str: "a string", type(None): "null", dict: "an object"}
    return kinds.get(type(value), "a number")


def parse_yaml(text: str, where: str, error: type[ToolchainError], *, positions: bool) -> Any:
    """Return the value of a YAML 1.2 text.

    Args:
        text: The text.
        where: Its place, for errors: a file, whose line and column are added, or an option.
        error: The class of the error.
        positions: Whether mappings and lists know where their items stand.

    Raises:
        ToolchainError: Of that class; it is no YAML, is beyond a limit, or holds what no recipe needs.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

    if len(text.encode("utf-8", "surrogatepass")) > limits.limit("recipe_bytes"):
        raise error(f"{where}: more than {limits.limit('recipe_bytes'):,} bytes", limits.way_out("recipe_bytes"))
    reader = YAML(typ="rt" if positions else "safe", pure=True)
    reader.Parser = _parser(where, error, positions)
    try:
        return reader.load(text)
    except ToolchainError:
        raise
    except MarkedYAMLError as caught:
        mark = caught.problem_mark or caught.context_mark
        place = f"{where}:{mark.line + 1}:{mark.column + 1}" if mark else where
        lines = text.splitlines()
        source = f"\n  {lines[mark.line][:200]}" if mark and mark.line < len(lines) else ""
        what = (caught.problem or "not valid YAML").splitlines()[0]
        if not positions:
            raise error(f"{where} is no YAML value: {_first(caught)}", "quote it") from caught
        raise error(f"{place}: {what}{source}") from caught
    except (YAMLError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError) as caught:
        # what the reader of a value raises, such as that of the date 2026-13-45
        what = ": not valid YAML" if positions else " is no YAML value"
        raise error(f"{where}{what}: {_first(caught)}", "quote it") from caught


def _first(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), "") or type(error).__name__


def _parser(where: str, kind: type[ToolchainError], positions: bool) -> type[Any]:
    """Return ruamel.yaml's parser, which counts what it hands over: no value is made of what is beyond a limit."""
    from ruamel.yaml import events, parser

    values, levels = limits.limit("recipe_values"), limits.limit("nesting")
    base: type[Any] = parser.RoundTripParser if positions else parser.Parser

    class Parser(base):  # type: ignore[misc]
        """Counts values, levels and what aliases repeat."""

        def reset_parser(self) -> None:
            super().reset_parser()
            self.values = 0  # those that aliases repeat included
            self.open: list[list[Any]] = []  # [anchor, values before it, items of it, whether a mapping]
            self.sizes: dict[str, int] = {}  # values of each anchor

        def get_event(self) -> Any:
            event = super().get_event()
            if isinstance(event, events.NodeEvent):
                self._count(event)
            elif isinstance(event, events.CollectionEndEvent):
                anchor, before, *_ = self.open.pop()
                if anchor:
                    self.sizes[anchor] = self.values - before
            return event

        def _count(self, event: Any) -> None:
            is_key = bool(self.open) and self.open[-1][3] and self.open[-1][2] % 2 == 0
            if self.open:
                self.open[-1][2] += 1
            anchor = str(event.anchor) if event.anchor else ""
            if isinstance(event, events.AliasEvent):
                if anchor in (item[0] for item in self.open):
                    _refuse(event, f"the alias *{anchor} stands inside what it names", "write it out")
                self.values += self.sizes.get(anchor, 1)
            else:
                self.values += 1
                if event.tag is not None:
                    _refuse(event, f"the tag {event.tag} is not read", "write the value without a tag; quote a text")
            if self.values > values:
                _refuse(event, f"holds more than {values:,} values, those that aliases repeat included",
                        limits.way_out("recipe_values"))  # fmt: skip
            if isinstance(event, events.CollectionStartEvent):
                if is_key:
                    _refuse(event, "a list or a mapping is the name of a key", "a name is a word")
                self.open.append([anchor, self.values - 1, 0, isinstance(event, events.MappingStartEvent)])
                if len(self.open) > levels:
                    _refuse(event, f"more than {levels} levels inside each other",
                            limits.way_out("nesting"))  # fmt: skip
            elif isinstance(event, events.ScalarEvent):
                if anchor:
                    self.sizes[anchor] = 1
                if event.value != "~":
                    disk.check_text(event.value, _place(event))

    def _place(event: Any) -> str:
        mark = event.start_mark
        return f"{where}:{mark.line + 1}:{mark.column + 1}" if positions else where

    def _refuse(event: Any, message: str, hint: str) -> NoReturn:
        raise kind(f"{_place(event)}: {message}", hint)

    return Parser
