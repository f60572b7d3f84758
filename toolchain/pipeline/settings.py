"""Validates settings against a ``Config`` dataclass: pydantic does the work, we say it in the recipe's words."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, get_args, get_type_hints

from toolchain.certainty.noninferiority import MARGIN
from toolchain.core.registry import suggest
from toolchain.core.schema import message
from toolchain.core.stage import Ge, Gt, Le, StageConfig
from toolchain.measure.evaluate import Config as Evaluate
from toolchain.measure.timing import Config as Benchmark

if TYPE_CHECKING:
    from toolchain.pipeline.document import Problems

T = TypeVar("T")

__all__ = ["Benchmark", "Evaluate", "Report", "Weights", "changed", "default_of", "over", "plain", "validate"]


@dataclass(frozen=True, kw_only=True)
class Weights(StageConfig):
    """Weights of the score WS = w_A·A + w_CR·CR + w_IS·IS, A in percent.

    Attributes:
        accuracy: w_A.
        compression: w_CR.
        speedup: w_IS.
    """

    accuracy: Annotated[float, Ge(0)] = 1.0
    compression: Annotated[float, Ge(0)] = 1.0
    speedup: Annotated[float, Ge(0)] = 1.0


@dataclass(frozen=True, kw_only=True)
class Report(StageConfig):
    """How a recipe's engines are ranked.

    Attributes:
        weights: Weights of the score.
        speedup: The speedup that the score takes: ``batch 1`` is median latency, others are throughput.
        split: The examples that accuracy is taken on.
        margin: Points of accuracy that an engine may be worse than its baseline; the report says whether it is not.
    """

    weights: Weights = field(default_factory=Weights)
    speedup: str = "batch 1"
    split: Literal["test", "dev"] = "test"
    margin: Annotated[float, Gt(0), Le(50)] = MARGIN


def validate(problems: Problems, config: type[T], value: Any, path: tuple[Any, ...], label: str) -> T | None:
    """The settings as a ``Config``, or None with the problems noted.

    Args:
        problems: Where problems go.
        config: A dataclass whose fields carry their ranges.
        value: What the user wrote.
        path: Where it stands in the document.
        label: The technique's name, for messages.
    """
    from pydantic import ValidationError

    if not isinstance(value, Mapping):
        problems.add(path, f"{label}: settings are a mapping, not {value!r}", f"{{{label}: {{setting: value}}}}")
        return None
    filled = plain(_filled(config, value))
    text = json.dumps(filled, default=str)  # what JSON has no type for, such as a date, is judged as text
    try:
        return _adapter(config).validate_json(text, strict=True)  # type: ignore[no-any-return, arg-type]
    except ValidationError as error:
        found = error.errors()
        for item in found:
            if not _beside_the_point(item, found):
                _explain(problems, config, item, path, label)
        return None


def _beside_the_point(item: Any, found: list[Any]) -> bool:
    """Whether an error says only that a value is of another kind, where another error is about that kind.

    One inside of a value, such as a list's first number, tells more than that the whole is none of what was tried.
    """
    where = _inside(item)
    if any(len(_inside(other)) > len(where) and _inside(other)[: len(where)] == where for other in found):
        return True
    others = (other for other in found if other is not item and not str(other["type"]).endswith("_type"))
    return str(item["type"]).endswith("_type") and any(_inside(other)[: len(where)] == where for other in others)


def _inside(item: Any) -> list[Any]:
    """Where in the settings an error is: fields and places in lists, without the kinds that were tried."""
    tried = ("list[", "tuple[", "function-", "constrained-", "literal[")
    named = [part for part in item["loc"] if not str(part).startswith(tried)]
    return [part for part in named if part not in ("str", "int", "float", "nullable")]


def plain(value: Any) -> Any:
    """Settings as JSON values: dataclasses become mappings, tuples lists."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value


def over(config: StageConfig, given: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with what is given in their place, each within a setting too; not validated.

    Args:
        config: What holds where nothing is given.
        given: What the user wrote.
    """
    found: dict[str, Any] = {each.name: getattr(config, each.name) for each in dataclasses.fields(config)}
    for name, value in given.items():
        held = found.get(name)
        both = isinstance(held, StageConfig) and isinstance(value, Mapping)
        found[name] = over(held, value) if both else value  # type: ignore[arg-type]
    return found


def changed(config: StageConfig) -> dict[str, Any]:
    """Those of some settings that are not what their class has by default, as JSON values."""
    values = ((each, getattr(config, each.name)) for each in dataclasses.fields(config))
    return {each.name: plain(value) for each, value in values if value != default_of(each)}


def _filled(config: type[Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """What the user wrote, with what a setting has by default for what was not named inside of it.

    Without this ``distill: {finetune: {epochs: 2}}`` would take the learning rate of ``finetune``, not of ``distill``.
    """
    found = dict(given)
    for each in dataclasses.fields(config):
        default, value = default_of(each), found.get(each.name)
        if isinstance(default, StageConfig) and isinstance(value, Mapping):
            found[each.name] = over(default, value)
    return found


def default_of(each: dataclasses.Field[Any]) -> Any:
    """A setting's default; ``MISSING`` where it has none."""
    return each.default if each.default_factory is dataclasses.MISSING else each.default_factory()


@cache
def _adapter(config: type[Any]) -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(config)


def _holder(config: type[Any], places: Sequence[Any]) -> type[Any]:
    """The dataclass that holds a setting, by the names of the settings that it is in."""
    for place in places:
        hint = get_type_hints(config).get(str(place))
        inner = next((kind for kind in (hint, *get_args(hint)) if dataclasses.is_dataclass(kind)), None)
        if not isinstance(inner, type):
            break
        config = inner
    return config


def _explain(problems: Problems, config: type[Any], item: Any, path: tuple[Any, ...], label: str) -> None:
    """One pydantic error in the recipe's words, at the place it is about."""
    inside = _inside(item)
    name = ".".join(str(part) for part in inside)
    where = f"{label}: {name}" if name else label
    value, context = item["input"], item.get("ctx", {})
    kind = item["type"]
    if kind in ("unexpected_keyword_argument", "extra_forbidden"):
        fields = [f.name for f in dataclasses.fields(_holder(config, inside[:-1]))]
        problems.add((*path, *inside), f"{label}: unknown setting {name!r}", suggest(str(inside[-1]), fields))
        return
    if kind == "missing":
        problems.add(path, f"{where} is missing")
        return
    bounds = {
        "greater_than": ("gt", "is not above"), "greater_than_equal": ("ge", "is below"),
        "less_than": ("lt", "is not below"), "less_than_equal": ("le", "is above"),
    }  # fmt: skip
    if kind in bounds:
        key, words = bounds[kind]
        problems.add((*path, *inside), f"{where}: {value!r} {words} {context[key]:g}")
    elif kind == "literal_error":
        problems.add((*path, *inside), f"{where}: {value!r} is not {context['expected']}")
    elif kind in ("too_short", "string_too_short"):
        least = context.get("min_length", 1)
        few = "must not be empty" if least == 1 else f"{value!r} has {len(value)}; at least {least} are needed"
        problems.add((*path, *inside), f"{where}: {few}")
    else:
        wanted = {
            "int_type": "a whole number", "int_from_float": "a whole number", "float_type": "a number",
            "bool_type": "true or false", "string_type": "text", "tuple_type": "a list", "list_type": "a list",
            "dict_type": "a mapping", "dataclass_type": "a mapping", "finite_number": "a finite number",
        }.get(kind)  # fmt: skip
        problems.add((*path, *inside), f"{where}: {value!r} is not {wanted}" if wanted else f"{where}: {message(item)}")
