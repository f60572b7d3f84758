"""Settings for each layer, within a budget, at the least total cost on dev.

What layers cost together is taken to be the sum of what each costs alone, as HAWQ-V2 does (Dong et al., arXiv
1911.03852); that holds while the changes are small. Each layer's settings make a front, those that nothing beats in
both cost and budget, and a dynamic program takes one of each front (as ZipLM does, Kurtic et al., arXiv 2302.04089).

The cost is the divergence of the probabilities from the dense checkpoint's, or the increase of the loss. The loss also
falls when a model that is too sure of itself is made less sure, whatever becomes of its labels, and is the noisier.

A block, the attention or the FFN, gets fewer heads or neurons, or lower ranks, and never both.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from toolchain.compress.shared.budget import Option, cheapest
from toolchain.compress.shared.svd import pays
from toolchain.core.errors import RecipeError
from toolchain.core.registry import suggest
from toolchain.layers.costs import BLOCKS
from toolchain.layers.prices import EMBEDDING, UNITS, By, Measure, Prices, Settings

#: What a budget may count, and the techniques that save some of it, in the order in which they are carried out.
COUNTS: dict[Measure, tuple[str, ...]] = {
    "size": ("heads", "ffn", "rank", "sparsity", "bits"), "flops": ("heads", "ffn", "rank", "sparsity"),
    "time": ("heads", "ffn"),
}  # fmt: skip

WORDS: dict[Measure, str] = {"size": "bytes", "flops": "FLOPs", "time": "time"}

#: Of settings that cost the same, the one that leaves more is taken: leaving everything counts as costing so much less.
TIE = 1e-6

#: Steps of the search for a uniform setting.
UNIFORM_STEPS = 200


@dataclass(frozen=True)
class Allocation:
    """Settings for every layer.

    Attributes:
        layers: By physical layer.
        tables: Of the embedding tables.
        cost: What the sum predicts.
        left: Part of the budget's measure that remains.
        measure: What the budget counts.
        by: What the cost is.
    """

    layers: tuple[Settings, ...]
    tables: Settings
    cost: float
    left: float
    measure: Measure
    by: By


@dataclass(frozen=True)
class _Choice:
    """Settings of a part of the model, what they cost, ties broken, and what they leave."""

    cost: float
    left: float
    settings: tuple[tuple[str, float], ...] = ()


def chosen(record: Mapping[str, Any], measure: Measure, techniques: Sequence[str] | None = None) -> tuple[str, ...]:
    """The techniques that settings are made of.

    Args:
        record: What ``sensitivity.json`` holds.
        measure: What the budget counts.
        techniques: Names; absent: all that were measured and save some of it, but sparsity, whose zeros save something
            only where a format or a kernel skips them.

    Raises:
        RecipeError: One is unknown, was not measured, or saves nothing of what the budget counts.
    """
    measured = {row["technique"] for row in record["rows"]}
    for name in techniques or ():
        if name not in COUNTS["size"]:
            raise RecipeError(f"unknown technique {name!r}", suggest(name, COUNTS["size"]))
    if measure == "time" and not record["time"]:
        raise RecipeError(
            "this sensitivity holds no times, and --time needs what heads and neurons cost in time",
            "measure them: toolchain sensitivity … --set sensitivity.time=true",
        )
    counted = COUNTS[measure]
    if techniques is None:
        techniques = [name for name in counted if name in measured and name != "sparsity"]
        if not techniques:
            raise RecipeError(
                f"nothing that was measured saves {WORDS[measure]}; measured are {', '.join(sorted(measured))}",
                f"name sparsity, or measure more: toolchain sensitivity … ({', '.join(counted)})",
            )
    for name in techniques:
        if name not in counted:
            raise RecipeError(f"{name} saves no {WORDS[measure]}", f"techniques that do: {', '.join(counted)}")
        if name not in measured:
            raise RecipeError(
                f"{name} was not measured; measured are {', '.join(sorted(measured))}",
                f"toolchain sensitivity … --set sensitivity.{name}=[…]",
            )
    return tuple(name for name in counted if name in techniques)


def allocate(
    record: Mapping[str, Any], measure: Measure, share: float, techniques: Sequence[str], by: By = "divergence"
) -> Allocation:
    """The settings of least cost within a budget.

    Args:
        record: What ``sensitivity.json`` holds.
        measure: What the budget counts.
        share: Part of the dense model's that may remain, 0 to 1.
        techniques: From :func:`chosen`.
        by: What is to be least.

    Raises:
        RecipeError: Not even the strongest settings keep to it.
    """
    prices = Prices(record, measure, by)
    groups = [*(_layer(prices, index, techniques) for index in range(len(prices.layers))), _tables(prices, techniques)]
    options = [[Option(choice.cost, choice.left, at) for at, choice in enumerate(group)] for group in groups]
    picked = cheapest(options, share * prices.whole - prices.rest)
    if picked is None:
        least = (prices.rest + sum(group[0].left for group in groups)) / prices.whole
        raise RecipeError(
            f"{share:g} of the {WORDS[measure]} cannot be had with {', '.join(techniques)}: the strongest settings "
            f"that were measured leave {least:.4f}",
            f"ask for {least + 0.005:.2f} or more, name more techniques, or measure stronger settings",
        )
    found = [dict(group[at].settings) for group, at in zip(groups, picked, strict=True)]
    return _judged(prices, found[:-1], found[-1])


def uniform(
    record: Mapping[str, Any], measure: Measure, share: float, techniques: Sequence[str], by: By = "divergence"
) -> Allocation | None:
    """One setting for all layers within the same budget: what per-layer settings are to be compared with.

    The same part of the heads, neurons and weights leaves every layer, or of the parameters where ranks alone are asked
    for; of the widths of bits, the one with the least cost is taken.

    Returns:
        The setting, or None where none keeps to the budget without going beyond what was measured.
    """
    prices = Prices(record, measure, by)
    found = []
    for bits in [None, *prices.widths()] if "bits" in techniques else [None]:
        for step in range(UNIFORM_STEPS):
            made = _alike(prices, step / UNIFORM_STEPS, bits, techniques)
            if made is not None and made.left <= share + 1e-9:
                found.append(made)  # a larger part would cost more
                break
    return min(found, key=lambda made: made.cost, default=None)


def _alike(prices: Prices, part: float, bits: int | None, techniques: Sequence[str]) -> Allocation | None:
    """Every layer with this part removed; None where that is more than was measured."""
    layers = [_uniform(prices, index, part, techniques) for index in range(len(prices.layers))]
    tables: dict[str, float] | None = {}
    if "rank" in techniques and prices.measure == "size" and not {"heads", "ffn"} & set(techniques):
        tables = _uniform_ranks(prices, EMBEDDING, (EMBEDDING,), part)
    whole = [found for found in layers if found is not None]
    if tables is None or len(whole) < len(layers):
        return None
    width: dict[str, float] = {} if bits is None else {"bits": bits}
    return _judged(prices, [found | width for found in whole], tables | width)


def _uniform(prices: Prices, index: int, part: float, techniques: Sequence[str]) -> dict[str, float] | None:
    size, found = prices.layers[index], dict[str, float]()
    for block, (technique, name) in UNITS.items():
        if technique in techniques:
            whole, step = getattr(size, name), 1 if name == "heads" else prices.multiple
            found[name] = min(whole, max(step, round((1 - part) * whole / step) * step))
            if found[name] < min(prices.kept(technique, index, technique), default=whole):
                return None
        elif "rank" in techniques:
            ranks = _uniform_ranks(prices, index, BLOCKS[block], part)
            if ranks is None:
                return None
            found |= ranks
    if "sparsity" in techniques:
        if part > max(prices.sparsities(), default=0.0):
            return None
        found["sparsity"] = part
    return found


def _uniform_ranks(prices: Prices, layer: int | str, names: Iterable[str], part: float) -> dict[str, float] | None:
    found = {}
    for name in names:
        shape, known = prices.shape(layer, name), prices.kept("rank", layer, name)
        rank = int((1 - part) * shape[0] * shape[1] / sum(shape)) // prices.multiple * prices.multiple
        if known and rank < min(known):
            return None
        if known and pays(shape, rank):
            found[f"rank {name}"] = float(rank)
    return found


def _judged(prices: Prices, layers: Sequence[Settings], tables: Settings) -> Allocation:
    """Settings with what they are predicted to cost and to leave; those that change nothing are left out."""
    whole = [{"heads": size.heads, "neurons": size.neurons, "sparsity": 0.0} for size in prices.layers]
    changed = [
        {name: value for name, value in found.items() if value != own.get(name)}
        for found, own in zip(layers, whole, strict=True)
    ]
    cost, left = prices.costs(changed, tables), prices.left(changed, tables)
    return Allocation(tuple(changed), dict(tables), cost, left, prices.measure, prices.by)


def _layer(prices: Prices, index: int, techniques: Sequence[str]) -> list[_Choice]:
    """What nothing beats, of all settings of a layer."""
    fronts = []
    for block, (technique, name) in UNITS.items():
        ways: list[Settings] = [{}]
        if technique in techniques:
            ways += [{name: float(count)} for count in prices.units(index, block)]
        front = [_choice(prices, index, way, prices.of_block(index, block, way)) for way in ways]
        fronts.append(_front([*front, *(_ranked(prices, index, block) if "rank" in techniques else ())]))
    above = prices.of_layer(index, {}) - sum(prices.of_block(index, block, {}) for block in BLOCKS)
    made = _front(_Choice(both.cost, both.left + above, both.settings) for both in _sum(*fronts))
    values: dict[str, Sequence[float]] = {"sparsity": prices.sparsities(), "bits": prices.widths()}
    for name in ("sparsity", "bits"):
        if name in techniques:
            more = [{**dict(choice.settings), name: value} for choice in made for value in values[name]]
            made = _front([*made, *(_choice(prices, index, found, prices.of_layer(index, found)) for found in more)])
    return made


def _ranked(prices: Prices, index: int, block: str) -> list[_Choice]:
    """A block's ranks that nothing beats."""
    made = [_choice(prices, index, {}, prices.of_block(index, block, {}))]
    for name in BLOCKS[block]:
        whole = prices.of_matrix(index, name, {})
        own = [_Choice(0.0, 0.0)]
        for rank in prices.ranks(index, name):
            settings = {f"rank {name}": float(rank)}
            saved = prices.of_matrix(index, name, settings) - whole
            own.append(_choice(prices, index, settings, saved))
        made = _front(_sum(made, own))
    return made


def _tables(prices: Prices, techniques: Sequence[str]) -> list[_Choice]:
    ranks = prices.ranks(EMBEDDING, EMBEDDING) if "rank" in techniques else []
    widths = prices.widths() if "bits" in techniques else []
    made = []
    for rank, bits in itertools.product((None, *ranks), (None, *widths)):
        asked = {f"rank {EMBEDDING}": rank, "bits": bits}
        settings = {name: float(value) for name, value in asked.items() if value is not None}
        made.append(_choice(prices, EMBEDDING, settings, prices.of_tables(settings)))
    return _front(made)


def _choice(prices: Prices, layer: int | str, settings: Settings, left: float) -> _Choice:
    cost = sum(prices.cost(layer, name, value) for name, value in settings.items())
    return _Choice(cost - TIE * left / prices.whole, left, tuple(settings.items()))


def _sum(some: Sequence[_Choice], others: Sequence[_Choice]) -> Iterator[_Choice]:
    """Every choice of some with every one of the others."""
    for one, other in itertools.product(some, others):
        yield _Choice(one.cost + other.cost, one.left + other.left, (*one.settings, *other.settings))


def _front(choices: Iterable[_Choice]) -> list[_Choice]:
    """Choices that no other one beats: by what they leave, rising, with costs that fall."""
    found: list[_Choice] = []
    for choice in sorted(choices, key=lambda choice: (choice.left, choice.cost)):
        if not found or choice.cost < found[-1].cost - 1e-12:
            found.append(choice)
    return found
