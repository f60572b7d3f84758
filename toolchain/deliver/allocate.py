"""Settings for each layer as recipe items that carry them out, and a recipe that holds them against uniform ones."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from io import StringIO
from pathlib import Path
from typing import Any

from toolchain.core import registry
from toolchain.layers.allocation import WORDS, Allocation
from toolchain.pipeline.settings import plain

#: What the two variants are called.
ALLOCATED, UNIFORM = "allocated", "uniform"

Items = list[Any]


def items(record: Mapping[str, Any], allocation: Allocation) -> Items:
    """A variant: what is done to a checkpoint, its export, and what is done to the graph.

    Args:
        record: What ``sensitivity.json`` holds.
        allocation: Settings for its layers.
    """
    passes = [_removed(record, allocation), _ranks(record, allocation), _sparse(record, allocation)]
    return [*(item for item in passes if item), "export", *(item for item in [_bits(record, allocation)] if item)]


def variants(record: Mapping[str, Any], allocation: Allocation, alike: Allocation | None) -> str:
    """The variant as YAML, to be pasted into a recipe, with what it is predicted to cost."""
    return _notes(allocation, alike) + _yaml({"variants": {ALLOCATED: items(record, allocation)}})


def recipe(record: Mapping[str, Any], allocation: Allocation, alike: Allocation | None, model: str, name: str) -> str:
    """A whole recipe as YAML: the dense model, the settings for each layer, and uniform ones of the same budget.

    Args:
        record: What ``sensitivity.json`` holds.
        allocation: Settings for each layer.
        alike: One setting for all layers; None where there is none.
        model: The checkpoint.
        name: The recipe's name.
    """
    variants = {"base": ["export"], ALLOCATED: items(record, allocation)}
    variants |= {UNIFORM: items(record, alike)} if alike else {}
    whole = {
        "name": name,
        "task": _task(record),
        "model": model,
        "variants": variants,
        "engines": [registry.DEFAULT_ENGINE],
    }
    return _notes(allocation, alike) + _yaml(whole)


def as_json(record: Mapping[str, Any], allocation: Allocation, alike: Allocation | None) -> dict[str, Any]:
    """Both allocations with their items, for a program."""
    return {
        "measure": allocation.measure,
        "by": allocation.by,
        **{
            name: each and {**_told(each), "items": items(record, each)}
            for name, each in ((ALLOCATED, allocation), (UNIFORM, alike))
        },
    }


def _told(allocation: Allocation) -> dict[str, Any]:
    return {name: plain(getattr(allocation, name)) for name in ("cost", "left", "layers", "tables")}


def _removed(record: Mapping[str, Any], allocation: Allocation) -> dict[str, Any] | None:
    remove: dict[str, list[float]] = {}
    for kind, name in (("heads", "heads"), ("ffn", "neurons")):
        parts = [
            round(1 - chosen.get(name, layer[name]) / layer[name], 4)
            for chosen, layer in zip(allocation.layers, record["layers"], strict=True)
        ]
        remove |= {kind: parts} if any(parts) else {}
    if not remove:
        return None
    multiple = record["settings"]["multiple_of"]
    return {
        "gradient_prune": {
            "criterion": "obs",
            "remove": remove,
            **({"multiple_of": multiple} if multiple != 16 else {}),
        }
    }


def _ranks(record: Mapping[str, Any], allocation: Allocation) -> dict[str, Any] | None:
    named = [*((f"{index}.", chosen) for index, chosen in enumerate(allocation.layers)), ("", allocation.tables)]
    ranks = {
        f"{prefix}{name.removeprefix('rank ')}": int(value)
        for prefix, chosen in named for name, value in chosen.items() if name.startswith("rank ")
    }  # fmt: skip
    if not ranks:
        return None
    multiple = record["settings"]["multiple_of"]
    return {"low_rank": {"ranks": ranks, **({"multiple_of": multiple} if multiple != 16 else {})}}


def _sparse(record: Mapping[str, Any], allocation: Allocation) -> dict[str, Any] | None:
    parts = [chosen.get("sparsity", 0.0) for chosen in allocation.layers]
    if not any(parts):
        return None
    if record["settings"]["criterion"] == "magnitude":
        return {"magnitude_prune": {"sparsity": parts}}
    return {"gradient_prune": {"criterion": "obs", "sparsity": parts}}


def _bits(record: Mapping[str, Any], allocation: Allocation) -> dict[str, Any] | None:
    """Widths by group of nodes; what has none stays in floats."""
    widths, run = {}, 0
    for chosen, layer in zip(allocation.layers, record["layers"], strict=True):
        last = run + layer["runs"] - 1
        if "bits" in chosen:
            widths[f"layer {run} *" if last == run else f"layers {run}-{last} *"] = int(chosen["bits"])
        run = last + 1
    tables = allocation.tables.get("bits")
    if not widths and tables is None:
        return None
    settings = {"linear_bits": None, "embedding_bits": None if tables is None else int(tables)}
    return {"weight_only": settings | ({"bits_by_group": widths} if widths else {})}


def _task(record: Mapping[str, Any]) -> Any:
    """The task with the settings that are not its defaults."""
    label, settings = next(iter(record["task"].items()))
    config = registry.get("tasks", label).config
    defaults = {field.name: plain(field.default) for field in dataclasses.fields(config)}
    own = {name: value for name, value in settings.items() if value != defaults.get(name, dataclasses.MISSING)}
    own = {name: _settled(value) if name in ("folder", "files", "dataset") else value for name, value in own.items()}
    return own if label == "files" else {label: own} if own else label


def _settled(value: Any) -> Any:
    """Paths that exist, wherever the recipe is written to."""
    if isinstance(value, Mapping):
        return {name: _settled(item) for name, item in value.items()}
    return str(Path(value).resolve()) if isinstance(value, str) and Path(value).exists() else value


def _notes(allocation: Allocation, alike: Allocation | None) -> str:
    measure = {"divergence": "divergence on dev", "loss": "increase of the dev loss"}[allocation.by]
    remain = f"{100 * allocation.left:.1f} % of the {WORDS[allocation.measure]} remain"
    lines = [f"{remain}; predicted {measure}: {allocation.cost:.3g}"]
    if alike:
        lines.append(f"one setting for all layers: {100 * alike.left:.1f} %, {alike.cost:.4f}")
    if any("sparsity" in own for own in allocation.layers):
        lines.append("zeros are counted as saved, which they are only where a format or a kernel skips them")
    return "".join(f"# {line}\n" for line in lines)


def _yaml(value: Mapping[str, Any]) -> str:
    """YAML whose items each stand on one line."""
    from ruamel.yaml import YAML
    from ruamel.yaml.comments import CommentedMap

    def flow(item: Any) -> Any:
        if not isinstance(item, Mapping):
            return item
        mapping = CommentedMap({name: flow(inner) for name, inner in item.items()})
        mapping.fa.set_flow_style()
        return mapping

    shown = {**value, "variants": {name: [flow(item) for item in own] for name, own in value["variants"].items()}}
    if "task" in value:
        shown["task"] = flow(value["task"])
    writer: Any = YAML()
    writer.width = 10_000  # an item stands on one line, whatever it holds
    writer.indent(mapping=2, sequence=4, offset=2)
    stream = StringIO()
    writer.dump(shown, stream)
    return stream.getvalue()
