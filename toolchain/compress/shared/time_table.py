"""What a layer's heads and neurons cost in time on the engine, measured: ZipLM's idea (arXiv 2302.04089).

Times are parts of the dense model's. The whole model is timed with every layer's attention at a few numbers of heads,
with every FFN at a few numbers of neurons, and with half of its layers; what lies between two is interpolated.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from toolchain.model import checkpoint, surgery
from toolchain.model.anatomy import anatomy, heads, layers_of, neurons

#: Parts of the heads and neurons that are timed, beside all and the fewest.
PARTS = (0.25, 0.5, 0.75)


@dataclass(frozen=True)
class TimeTable:
    """Times as parts of the dense model's.

    Attributes:
        layer: One run of a whole layer.
        heads: What one run saves, by the number of heads that are left.
        neurons: What one run saves, by the number of neurons that are left.
        depth: Layers of the dense model.
    """

    layer: float
    heads: Mapping[int, float]
    neurons: Mapping[int, float]
    depth: int

    def of(self, layers: Sequence[tuple[int, int]]) -> float:
        """Time of a model.

        Args:
            layers: Heads and neurons of each layer that is computed.
        """
        base = 1 - self.depth * self.layer
        return base + sum(self.layer - self.saved_by_heads(h) - self.saved_by_neurons(n) for h, n in layers)

    def saved_by_heads(self, left: int) -> float:
        """What a layer with so many heads saves."""
        return _between(self.heads, left)

    def saved_by_neurons(self, left: int) -> float:
        """What a layer with so many neurons saves."""
        return _between(self.neurons, left)


def measure(
    source: Path, work: Path, time: Callable[[Sequence[Path]], list[float]], multiple: int, tokenizer: Any
) -> TimeTable:
    """Times a checkpoint at several sizes.

    Args:
        source: The dense checkpoint; its layers may differ, and then the largest counts.
        work: Folder for the checkpoints that are timed.
        time: Gives the speed of checkpoints, by the dense one's: see :mod:`toolchain.compress.shared.stopwatch`.
        multiple: Neurons come in such multiples.
        tokenizer: The checkpoint's tokenizer.
    """
    model = checkpoint.load_model(source)
    found, layers = anatomy(model), layers_of(model)
    most_heads, most_neurons = max(heads(model, x) for x in layers), max(neurons(model, x) for x in layers)
    head_counts = sorted({1, *(max(1, round(part * most_heads)) for part in PARTS)} - {most_heads})
    steps = {multiple, *(max(multiple, round(part * most_neurons / multiple) * multiple) for part in PARTS)}
    neuron_counts = sorted(steps - {most_neurons})
    half = max(1, found.depth // 2)
    cuts: list[Callable[[Any], None]] = [
        *(lambda m, n=n: _heads(m, n) for n in head_counts),
        *(lambda m, n=n: _neurons(m, n) for n in neuron_counts),
    ]
    if found.depth > half and not (found.shared and len(layers) > 1):
        cuts.append(lambda m: surgery.keep_layers(m, range(half)))
    folders = []
    for number, cut in enumerate(cuts):
        folders.append(work / f"timed-{number}")
        folders[-1].mkdir()
        smaller = checkpoint.load_model(source)
        cut(smaller)
        checkpoint.save_like(smaller, tokenizer, source, folders[-1])
    saved = [1 - 1 / speed for speed in time(folders)]
    by_heads = dict(zip(head_counts, saved, strict=False)) | {most_heads: 0.0}
    by_neurons = dict(zip(neuron_counts, saved[len(head_counts) :], strict=False)) | {most_neurons: 0.0}
    rest = saved[len(head_counts) + len(neuron_counts) :]
    layer = rest[0] / (found.depth - half) if rest else 0.0
    return TimeTable(
        layer,
        {count: max(0.0, value / found.depth) for count, value in by_heads.items()},
        {count: max(0.0, value / found.depth) for count, value in by_neurons.items()},
        found.depth,
    )


def _heads(model: Any, count: int) -> None:
    for layer in layers_of(model):
        surgery.keep_heads(model, layer, range(min(count, heads(model, layer))))


def _neurons(model: Any, count: int) -> None:
    for layer in layers_of(model):
        surgery.keep_neurons(model, layer, range(min(count, neurons(model, layer))))


def _between(table: Mapping[int, float], at: int) -> float:
    known = sorted(table)
    return float(np.interp(at, known, [table[count] for count in known]))
