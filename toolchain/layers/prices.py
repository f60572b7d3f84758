"""What settings of layers are predicted to cost on dev, and what they leave of a budget, by a measured sensitivity.

Between two measured settings of a layer the cost is interpolated along what is left of it. A measured decrease counts
as none, and a stronger setting as no cheaper than a weaker one: what says otherwise is noise, and would be sought out.
Sparsity and bits act on what is left of a layer, so their savings multiply. Bytes of 8 and 4 bits are those that
``weight_only`` writes, scales and zero points included.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, Literal

import numpy as np

from toolchain.compress.shared.svd import pays
from toolchain.compress.shared.time_table import TimeTable
from toolchain.layers.costs import BLOCKS, LayerSize, TableSize
from toolchain.optimize.weight_only.packing import stored_bytes

Measure = Literal["size", "flops", "time"]

#: What is to be least: the divergence of the probabilities from the dense checkpoint's, or the increase of the loss.
By = Literal["divergence", "loss"]
COLUMNS: dict[By, str] = {"divergence": "divergence", "loss": "loss_increase"}

#: Settings of a layer, or of the embedding tables: heads, neurons, sparsity, bits, and ``rank MATRIX`` for each matrix
#: that becomes two factors; what is absent stays dense.
Settings = Mapping[str, float]

#: The layer of the embedding tables, and their matrix.
EMBEDDING = "embedding"

#: Which units a block has: their technique, and their name among settings.
UNITS = {"attention": ("heads", "heads"), "ffn": ("ffn", "neurons")}

#: Sparsity is given in steps of this.
STEP = 0.05


class Prices:
    """Costs and what is left.

    Args:
        record: What ``sensitivity.json`` holds.
        measure: What a budget counts.
        by: What is to be least.
    """

    def __init__(self, record: Mapping[str, Any], measure: Measure, by: By = "divergence") -> None:
        self.measure, self.by, self._column = measure, by, COLUMNS[by]
        self._rows: dict[tuple[str, int | str, str], list[Mapping[str, Any]]] = {}
        for row in record["rows"]:
            self._rows.setdefault((row["technique"], row["layer"], row["part"]), []).append(row)
        self.layers = tuple(LayerSize(**layer) for layer in record["layers"])
        self.tables = TableSize(**record["tables"])
        self.multiple = int(record["settings"]["multiple_of"])
        self._tokens = round(float(record["dense"]["mean_tokens"]))
        self._times = _time_table(record["time"]) if measure == "time" else None
        self.whole = 1.0 if measure == "time" else float(record["dense"]["bytes" if measure == "size" else "flops"])
        self.rest = self.whole - sum(self.of_layer(i, {}) for i in range(len(self.layers))) - self.of_tables({})
        self.cost = cache(self._cost)

    def costs(self, layers: Sequence[Settings], tables: Settings) -> float:
        """What settings of the whole model add up to."""
        found = sum(self.cost(EMBEDDING, name, value) for name, value in tables.items())
        return found + sum(self.cost(i, name, value) for i, own in enumerate(layers) for name, value in own.items())

    def left(self, layers: Sequence[Settings], tables: Settings) -> float:
        """Part of the measure that settings of the whole model leave."""
        found = sum(self.of_layer(index, own) for index, own in enumerate(layers))
        return (self.rest + found + self.of_tables(tables)) / self.whole

    def _cost(self, layer: int | str, name: str, value: float) -> float:
        kind, _, matrix = name.partition(" ")
        technique = "ffn" if kind == "neurons" else kind
        part = technique if technique in ("heads", "ffn") else matrix or "layer"
        at = "setting" if technique == "sparsity" else "kept"
        known = {float(row[at]): float(row[self._column]) for row in self._rows[technique, layer, part]}
        known[self._dense(layer, technique, matrix)] = 0.0
        places = sorted(known, reverse=technique != "sparsity")  # from dense to the strongest
        costs = np.maximum.accumulate([max(0.0, known[place]) for place in places])
        rising = slice(None, None, 1 if technique == "sparsity" else -1)
        return float(np.interp(value, places[rising], costs[rising]))

    def _dense(self, layer: int | str, technique: str, matrix: str) -> float:
        """What stands for the dense part; of ranks, that of factors as large as the matrix."""
        if technique in ("sparsity", "bits"):
            return 32.0 if technique == "bits" else 0.0
        if technique == "rank":
            rows, columns = self.shape(layer, matrix)
            return rows * columns / (rows + columns)
        size = self.layers[int(layer)]
        return float(size.heads if technique == "heads" else size.neurons)

    def of_matrix(self, index: int, name: str, settings: Settings) -> float:
        """What one matrix leaves, in bytes or FLOPs."""
        size = self.layers[index]
        heads, neurons = _whole(settings.get("heads")), _whole(settings.get("neurons"))
        numbers = size.weights(name, heads=heads, neurons=neurons, rank=int(settings.get(f"rank {name}", 0)))
        numbers = round(numbers * (1 - settings.get("sparsity", 0.0)))
        return size.flops(self._tokens, numbers) if self.measure == "flops" else numbers * _bytes(settings.get("bits"))

    def of_block(self, index: int, block: str, settings: Settings) -> float:
        """What a block leaves; of time, which is known of whole layers alone, what it saves, below zero."""
        size = self.layers[index]
        heads, neurons = _whole(settings.get("heads")), _whole(settings.get("neurons"))
        if self._times is not None:
            if block == "attention":
                return -size.runs * self._times.saved_by_heads(size.heads if heads is None else heads)
            return -size.runs * self._times.saved_by_neurons(size.neurons if neurons is None else neurons)
        left = sum(self.of_matrix(index, name, settings) for name in BLOCKS[block])
        if self.measure == "flops":
            return left + (size.products(self._tokens, heads) if block == "attention" else 0)
        return left + 4 * (
            size.biases(heads=heads, neurons=0) if block == "attention" else size.biases(heads=0, neurons=neurons)
        )

    def of_layer(self, index: int, settings: Settings) -> float:
        """What a layer leaves."""
        layer = 0.0 if self._times is None else self.layers[index].runs * self._times.layer
        return layer + sum(self.of_block(index, block, settings) for block in BLOCKS)

    def of_tables(self, settings: Settings) -> float:
        """What the embedding tables, and a projection behind them, leave."""
        rank = int(settings.get(f"rank {EMBEDDING}", 0))
        if self.measure == "time":
            return 0.0
        if self.measure == "flops":
            return 2.0 * self._tokens * self.tables.projection(rank)
        return self.tables.table(rank) * _bytes(settings.get("bits")) + 4 * self.tables.projection(rank)

    def shape(self, layer: int | str, matrix: str) -> tuple[int, int]:
        """``(out, in)`` of a dense matrix."""
        if layer == EMBEDDING:
            return self.tables.tokens, self.tables.width
        return self.layers[int(layer)].shape(matrix)

    def units(self, index: int, block: str) -> range:
        """Numbers of heads or neurons, from the fewest that were measured to one step below all; else empty."""
        technique, name = UNITS[block]
        whole, step = getattr(self.layers[index], name), 1 if name == "heads" else self.multiple
        return range(min(self.kept(technique, index, technique), default=whole), whole, step)

    def ranks(self, layer: int | str, matrix: str) -> list[int]:
        """Ranks, from the lowest that was measured to the highest that is smaller than the matrix; else empty."""
        whole = self.shape(layer, matrix)
        lowest = min(self.kept("rank", layer, matrix), default=min(whole))
        return [rank for rank in range(lowest, min(whole), self.multiple) if pays(whole, rank)]

    def sparsities(self) -> list[float]:
        """Parts of the weights that become zero, up to the most that was measured."""
        most = max(self._settings("sparsity"), default=0.0)
        return [round(STEP * step, 4) for step in range(1, int(most / STEP + 1e-9) + 1)]

    def widths(self) -> list[int]:
        """Bits that were measured and that a graph pass carries out."""
        return [int(bits) for bits in self._settings("bits") if bits in (4, 8)]

    def kept(self, technique: str, layer: int | str, part: str) -> list[int]:
        """What the measured settings of a part leave."""
        return [int(row["kept"]) for row in self._rows.get((technique, layer, part), ())]

    def _settings(self, technique: str) -> list[float]:
        return sorted(
            {row["setting"] for (name, _, _), rows in self._rows.items() if name == technique for row in rows}
        )


def _time_table(found: Mapping[str, Any]) -> TimeTable:
    heads, neurons = ({int(n): float(t) for n, t in found[name].items()} for name in ("heads", "neurons"))
    return TimeTable(float(found["layer"]), heads, neurons, int(found["depth"]))


def _bytes(bits: float | None) -> float:
    return 4.0 if bits is None else stored_bytes(8 if bits == 8 else 4)


def _whole(value: float | None) -> int | None:
    return None if value is None else int(value)
