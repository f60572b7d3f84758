"""A YAML document that knows where each value stands, and the list of its problems."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from toolchain.core import disk, documents
from toolchain.core.errors import RecipeError
from toolchain.core.failure import name_of, shorten
from toolchain.core.registry import suggest
from toolchain.pipeline import shipped

#: Top-level keys of a recipe.
KEYS = (
    "name", "description", "task", "model", "models", "seeds", "stages", "variants", "engines", "baseline", "evaluate",
    "benchmark", "report", "limits", "check", "test",
)  # fmt: skip

#: After so many problems no more are looked for.
MANY = 100

#: Longest text of one problem; values and settings that it repeats are cut in the middle.
PROBLEM_CHARACTERS = 600


@dataclass
class Document:
    """A recipe as written.

    Attributes:
        value: The mapping, as ruamel.yaml's round-trip loader gives it, positions included.
        path: The file, or None.
        sets: Paths that ``--set`` has changed, and the text that did.
    """

    value: dict[str, Any]
    path: Path | None
    sets: dict[tuple[Any, ...], str] = field(default_factory=dict)

    @property
    def base(self) -> Path | None:
        """Folder that relative paths in it are relative to."""
        return self.path.parent if self.path else None

    def place(self, path: tuple[Any, ...]) -> str:
        """``file:line:column`` of a value, or the ``--set`` that gave it; the nearest one above when it is absent."""
        for length in range(len(path), 0, -1):
            if path[:length] in self.sets:
                return f"--set {self.sets[path[:length]]}"
        node: Any = self.value
        line, column = 0, 0
        for part in path:
            marks = getattr(node, "lc", None)
            try:
                at = marks.item(part) if isinstance(node, list) else marks.key(part)  # type: ignore[union-attr]
                line, column = at
                node = node[part]
            except (AttributeError, KeyError, IndexError, TypeError):
                break
        return f"{self.path}:{line + 1}:{column + 1}" if self.path else "command line"


@dataclass
class Problems:
    """Problems of one document, gathered so that all come at once."""

    document: Document
    found: dict[str, None] = field(default_factory=dict)

    def add(self, path: tuple[Any, ...], message: str, hint: str = "") -> None:
        """Notes a problem.

        Args:
            path: Keys and indices that lead to the value.
            message: What is wrong, with the value.
            hint: What is allowed, or what to do.
        """
        subject = message.partition(":")[0]
        shown = path[: path.index(subject)] if subject in path else path
        spoken = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in shown).lstrip(".")
        spoken += "" if not spoken else " " if subject in path else ": "
        text = f"{self.document.place(path)}: {spoken}{message}"
        text = f"{text} ({hint})" if hint else text
        self.found[shorten(text, 4, PROBLEM_CHARACTERS)] = None
        if len(self.found) == MANY:
            self.raise_if_any()

    def raise_if_any(self) -> None:
        """Raises one error with every problem.

        Raises:
            RecipeError: When there are any.
        """
        if self.found:
            many = " or more" if len(self.found) == MANY else ""
            count = f"{len(self.found)} problems{many}\n" if len(self.found) > 1 else ""
            raise RecipeError(count + "\n".join(self.found))


def read(path: Path) -> Document:
    """Reads a YAML 1.2 file, or the recipe of that name which comes with the package.

    Raises:
        RecipeError: The file is missing, unreadable, no YAML, or no mapping.
    """
    path = shipped.locate(path)
    try:
        text = disk.read_bounded(path, name="recipe_bytes").decode("utf-8")
    except OSError as error:
        names = [*map(str, Path().glob("*.yaml")), *(file.stem for file in shipped.recipes())]
        close = difflib.get_close_matches(str(path), names, n=1)
        meant = f"did you mean {close[0]!r}? " if close else ""
        raise RecipeError(
            f"{name_of(path)}: {error.strerror}", f"{meant}'toolchain list recipes' shows those at hand"
        ) from error
    except UnicodeDecodeError as error:
        raise RecipeError(f"{path} is not UTF-8 text (byte {error.start})", "save it as UTF-8") from error
    value = documents.parse_yaml(text, str(path), RecipeError, positions=True)
    if not isinstance(value, Mapping):
        kind = "a list" if isinstance(value, list) else "an empty file" if value is None else repr(value)
        raise RecipeError(f"{path}: a recipe is a mapping, not {kind}", "see recipes/README.md")
    return Document(value, path)  # type: ignore[arg-type]


def override(document: Document, text: str) -> None:
    """Applies ``key=value``: a dotted path into the document, or TECHNIQUE.SETTING wherever the technique stands.

    Raises:
        RecipeError: The path leads nowhere, or the value is no YAML.
    """
    key, equals, raw = text.partition("=")
    if not equals or not key:
        raise RecipeError(f"--set {text}: not of the form key=value", "for example --set finetune.epochs=1")
    value = parse_value(raw) if raw else ""
    parts = tuple(key.split("."))

    if parts[0] in KEYS:
        _assign(document, parts, value, text)
        return
    places = list(_mentions(document.value, parts[0], ())) or _taken_in(document.value, parts[0])
    if places and len(parts) < 2:
        raise RecipeError(f"--set {text}: {parts[0]} takes settings", f"write --set {parts[0]}.SETTING=VALUE")
    if not places:
        names = sorted({*KEYS, *mentioned(document.value)})
        raise RecipeError(
            f"--set {text}: {parts[0]!r} is no key of this recipe and no technique in it", suggest(parts[0], names)
        )
    for place in places:
        _assign(document, (*place, *parts[1:]), value, text)


def parse_value(text: str) -> Any:
    """A YAML value given on the command line.

    Raises:
        RecipeError: It is no YAML.
    """
    return documents.parse_yaml(text, repr(name_of(text)), RecipeError, positions=False)


def _assign(document: Document, parts: tuple[Any, ...], value: Any, text: str) -> None:
    node: Any = document.value
    walked: list[Any] = []
    for position, part in enumerate(parts):
        last = position == len(parts) - 1
        if isinstance(node, list):
            index = _index(node, part)
            if index is None:
                raise RecipeError(f"--set {text}: {'.'.join(map(str, walked))} has no item {part!r}", _listed(node))
            if isinstance(node[index], str) and not last and part == node[index]:
                node[index] = {part: {}}  # a bare name gets settings
            walked.append(index)
            if last:
                node[index] = value
            elif isinstance(node[index], Mapping) and not str(part).isdigit():
                node = node[index]
                node[part] = {} if node[part] is None else node[part]
                walked.append(part)
                node = node[part]
            else:
                node = node[index]
            continue
        if not isinstance(node, Mapping):
            raise RecipeError(f"--set {text}: {'.'.join(map(str, walked))} is {node!r}, which holds no {part!r}")
        walked.append(part)
        if last:
            node[part] = value  # type: ignore[index]
        else:
            inner = node.get(part)
            bare = isinstance(inner, str)
            if inner is None or (bare and walked == ["task"]):
                node[part] = {} if inner is None else {inner: {}}  # type: ignore[index]
            elif bare and (walked == ["model"] or (walked[0] == "models" and len(walked) == 2)):
                node[part] = {"source": inner}  # type: ignore[index]
            node = node[part]
    document.sets[tuple(walked)] = text


#: Digits of a number that no list has as many items as.
_DIGITS = 9


def _index(items: list[Any], part: Any) -> int | None:
    if str(part).isdecimal():
        return int(part) if len(str(part)) < _DIGITS and int(part) < len(items) else None
    return next(
        (i for i, item in enumerate(items) if item == part or (isinstance(item, Mapping) and part in item)), None
    )


def _listed(items: list[Any]) -> str:
    return "items: " + ", ".join(next(iter(i)) if isinstance(i, Mapping) and i else str(i) for i in items)


def _lists(value: Mapping[str, Any]) -> list[tuple[tuple[Any, ...], list[Any]]]:
    """Every list of stages or engines in the document, with its path."""
    variants = value.get("variants")
    named = variants.items() if isinstance(variants, Mapping) else ()
    found: list[tuple[tuple[Any, ...], Any]] = [(("variants", name), items) for name, items in named]
    found += [((key,), value.get(key)) for key in ("stages", "engines")]
    return [(path, items) for path, items in found if isinstance(items, list)]


def _mentions(value: Mapping[str, Any], name: str, path: tuple[Any, ...]) -> list[tuple[Any, ...]]:
    """Paths of the settings of every technique with this name."""
    places = [(*path, *where, name) for where, items in _lists(value) if _index(items, name) is not None]
    task = value.get("task", "reviews")
    if task == name or (isinstance(task, Mapping) and name in task and name != "files"):
        places.append(("task", name))
    return places


def _taken_in(value: Mapping[str, Any], name: str) -> list[tuple[Any, ...]]:
    """Paths of the settings under which each model is taken in, where no variant names that stage."""
    if name != "adopt":
        return []
    models = value.get("models")
    named = [("models", model, name) for model in models] if isinstance(models, Mapping) else []
    return named or ([("model", name)] if value.get("model") else [])


def mentioned(value: Mapping[str, Any]) -> list[str]:
    """Names of the techniques and engines that a document names."""
    names = []
    for _, items in _lists(value):
        names += [str(next(iter(item))) if isinstance(item, Mapping) and item else str(item) for item in items]
    return names


def beside(recipe: Path | None, settings: Any, keys: Collection[str]) -> Any:
    """Settings whose paths under these keys do not depend on the current folder where they exist beside the recipe."""
    if recipe is None or not isinstance(settings, Mapping):
        return settings

    def settle(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: settle(item) for key, item in value.items()}
        found = recipe.parent / value if isinstance(value, str) and value else None
        return str(found.absolute()) if found and not Path(value).is_absolute() and found.exists() else value

    return {key: settle(item) if key in keys else item for key, item in settings.items()}
