"""One part of one layer is compressed at a time, in memory, everything else dense: what a model then computes.

A trial puts copies in the place of a layer's matrices, changes them as the technique of that name would, and puts the
dense ones back. Layers before the one that is changed compute what they always do, so their output is kept and a trial
begins at its own layer.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, Protocol

from toolchain import kinds
from toolchain.compress.shared import matrices, obs, svd, weighting
from toolchain.compress.shared import targets as prune_targets
from toolchain.compress.shared.criteria import magnitude
from toolchain.compress.shared.gradients import sample
from toolchain.core.errors import ModelError, RecipeError, require
from toolchain.core.stage import Context
from toolchain.layers.costs import MATRICES, LayerSize, TableSize
from toolchain.model import shapes, surgery
from toolchain.model.anatomy import anatomy, head_size, heads, hidden, layers_of, neurons
from toolchain.model.encoded import Encoded, collate

Technique = Literal["sparsity", "heads", "ffn", "rank", "bits"]

#: The layer of the embedding tables.
EMBEDDING = "embedding"

#: Examples of a batch, and the bytes of hidden states that may be kept for all of them.
ROWS = 64
KEPT_BYTES = 2**30


@dataclass(frozen=True)
class Trial:
    """One part of one layer at one setting.

    Attributes:
        technique: What is done.
        layer: Physical layer, or ``embedding``.
        part: ``heads``, ``ffn``, the name of a matrix, or ``layer`` for all of its matrices.
        setting: As asked: the part that leaves, or for rank the part of the parameters that stays, or bits.
        kept: What is left: heads, neurons, the rank, weights that are not zero, bits.
    """

    technique: Technique
    layer: int | str
    part: str
    setting: float
    kept: int


class Strengths(Protocol):
    """What a bench reads of the settings of sensitivity; see its ``Config``."""

    @property
    def heads(self) -> Sequence[float]:
        """Return the parts of a layer's heads that are removed."""
        ...

    @property
    def ffn(self) -> Sequence[float]:
        """Return the parts of a layer's FFN neurons that are removed."""
        ...

    @property
    def rank(self) -> Sequence[float]:
        """Return the parts of a matrix's parameters that two factors keep."""
        ...

    @property
    def sparsity(self) -> Sequence[float]:
        """Return the parts of a layer's weights that become zero."""
        ...

    @property
    def criterion(self) -> str:
        """Return how those weights are chosen: obs or magnitude."""
        ...

    @property
    def bits(self) -> Sequence[int]:
        """Return the widths that weights are rounded to."""
        ...

    @property
    def multiple_of(self) -> int:
        """Return what neurons and ranks are a multiple of."""
        ...

    @property
    def calibration_samples(self) -> int:
        """Return how many training examples are read."""
        ...


class Bench:
    """Makes trials on a model.

    Args:
        model: A sequence classifier; every trial leaves it as it was.
        tokenizer: Its tokenizer.
        config: The settings that are tried, and how.
        context: Training sentences to calibrate on, and the seed that draws them.
        max_length: Longest input in tokens.
    """

    def __init__(self, model: Any, tokenizer: Any, config: Strengths, context: Context, max_length: int) -> None:
        self.model, self._tokenizer, self._config, self._context = model, tokenizer, config, context
        self._longest = max_length
        self.layers = tuple(_size(model, index) for index in range(len(layers_of(model))))
        self.tables = _tables(model)
        self._hessians: tuple[int, dict[str, Any]] = (-1, {})
        self._decomposed: tuple[int | str, dict[str, svd.Decomposition]] = ("", {})

    def trials(self) -> list[Trial]:
        """All trials, layer by layer, the embedding tables first; settings that come to the same stand once."""
        found = [Trial("rank", EMBEDDING, EMBEDDING, part, rank) for part, rank in self._ranks(EMBEDDING)]
        found += [Trial("bits", EMBEDDING, "layer", bits, bits) for bits in self._config.bits]
        for index, size in enumerate(self.layers):
            asked = {"heads": self._config.heads, "ffn": self._config.ffn}
            for kind, parts in asked.items():
                units, least = (size.heads, 1) if kind == "heads" else (size.neurons, self._config.multiple_of)
                kept = {share: min(units, max(least, round((1 - share) * units / least) * least)) for share in parts}
                found += [Trial(kind, index, kind, share, n) for share, n in _once(kept) if n < units]  # type: ignore[arg-type]
            for name in MATRICES:
                found += [Trial("rank", index, name, part, rank) for part, rank in self._ranks(f"{index}.{name}")]
            for share in self._config.sparsity:
                left = size.whole - round(share * size.whole)
                found.append(Trial("sparsity", index, "layer", share, left))
            found += [Trial("bits", index, "layer", bits, bits) for bits in self._config.bits]
        return found

    def prepare(self, trials: Sequence[Trial]) -> None:
        """Reads the calibration sentences for the ranks among trials that are to be made."""
        if any(trial.technique == "rank" for trial in trials):
            _ = self._activations

    @contextmanager
    def changed(self, trial: Trial) -> Iterator[None]:
        """The model with one trial's change, inside the block."""
        torch = require("torch", "torch")
        if trial.technique == "rank":
            decomposed = self._factors(trial.layer)
        elif trial.technique != "bits" and (trial.technique != "sparsity" or self._config.criterion == "obs"):
            hessians = self._inputs(int(trial.layer))
        with self._copied(self._names(trial)), torch.no_grad():
            if trial.technique == "rank":
                name = EMBEDDING if trial.layer == EMBEDDING else f"{trial.layer}.{trial.part}"
                matrices.put_in(self.model, self._found, decomposed, {name: trial.kept})
            elif trial.technique == "bits":
                for name in self._names(trial):
                    for module in self.model.get_submodule(name).modules():
                        if isinstance(module, torch.nn.Linear | torch.nn.Embedding):
                            module.weight.copy_(rounded(module.weight, trial.kept))
            elif trial.technique == "sparsity":
                self._sparsify(trial, hessians if self._config.criterion == "obs" else {})
            else:
                self._cut(trial, hessians)
            yield

    def _cut(self, trial: Trial, hessians: Mapping[str, Any]) -> None:
        index, kind = int(trial.layer), trial.technique
        target = prune_targets.unit_targets(self.model, kind)[index]  # type: ignore[arg-type]
        weight = target.weight(self.model)
        units = weight.shape[1] // target.columns
        found, fitted = obs.eliminate(weight, hessians[target.name], target.columns, units - trial.kept)
        weight.copy_(fitted)
        stay = sorted(set(range(units)) - set(found.order))
        keep = surgery.keep_heads if kind == "heads" else surgery.keep_neurons
        keep(self.model, layers_of(self.model)[index], stay)

    def _sparsify(self, trial: Trial, hessians: Mapping[str, Any]) -> None:
        targets = self._weights(int(trial.layer))
        if hessians:
            for target in targets:
                obs.sparsify(target.weight(self.model), hessians[target.name], trial.setting, False)
            return
        scores = {target: magnitude(target.weight(self.model), None, target.pool) for target in targets}
        kept = prune_targets.choose(scores, trial.setting, "local", magnitude)
        for target in targets:
            target.weight(self.model).mul_(kept[target])

    @contextmanager
    def _copied(self, names: Sequence[str]) -> Iterator[None]:
        """Copies in the place of modules; the modules themselves come back when the block is left."""
        originals = {name: self.model.get_submodule(name) for name in names}
        try:
            for name, module in originals.items():
                shapes.replace(self.model, name, copy.deepcopy(module))
            yield
        finally:
            for name, module in originals.items():
                shapes.replace(self.model, name, module)
            shapes.mend_heads(self.model)

    def _names(self, trial: Trial) -> list[str]:
        """Modules that a trial may change."""
        if trial.layer != EMBEDDING:
            return list(layers_of(self.model)[int(trial.layer)].linears)
        return [anatomy(self.model).embedding] if trial.technique == "rank" else _table_names(self.model)

    def _weights(self, index: int) -> list[prune_targets.Target]:
        return [target for target in prune_targets.weight_targets(self.model) if target.layer == index]

    def _inputs(self, index: int) -> dict[str, Any]:
        """What a layer's matrices read, of the dense model."""
        if self._hessians[0] != index:
            names = [target.name for target in self._weights(index)]
            self._hessians = (index, obs.inputs(self.model, names, self._calibration))
        return self._hessians[1]

    def _factors(self, layer: int | str) -> dict[str, svd.Decomposition]:
        if self._decomposed[0] != layer or not self._decomposed[1]:
            made = {}
            for name, matrix in self._found.items():
                if name == EMBEDDING if layer == EMBEDDING else name.startswith(f"{layer}."):
                    weight = self.model.get_submodule(matrix.module).weight
                    if name == EMBEDDING:
                        made[name] = svd.decompose(weight, rows=self._counts)
                    else:
                        read = self._activations[name]
                        made[name] = svd.decompose(weight, gram=read.gram, mean=read.mean)
            self._decomposed = (layer, made)
        return self._decomposed[1]

    def _ranks(self, name: str) -> list[tuple[float, int]]:
        """Ranks of a matrix at the parts of its parameters that are tried; none where factors would not be smaller."""
        if name not in self._found:
            return []
        size, multiple = self._found[name].size, self._config.multiple_of
        ranks = {part: int(part * size[0] * size[1] / sum(size)) // multiple * multiple for part in self._config.rank}
        ranks = {part: max(multiple, rank) for part, rank in ranks.items()}
        return [(part, rank) for part, rank in _once(ranks) if svd.pays(size, rank) and rank < min(size)]

    @cached_property
    def _found(self) -> dict[str, matrices.Matrix]:
        """The matrices that may become two factors."""
        try:
            return matrices.matrices(self.model, MATRICES, embedding=self.tables.factors)
        except (ModelError, RecipeError):  # they are factors already
            return {}

    @cached_property
    def _calibration(self) -> Encoded:
        return sample(self.model, self._tokenizer, self._context, self._config.calibration_samples)

    @cached_property
    def _activations(self) -> dict[str, weighting.Activations]:
        modules = {name: matrix.module for name, matrix in self._found.items() if name != EMBEDDING}
        return weighting.activations(self.model, modules, self._calibration)

    @cached_property
    def _counts(self) -> Any:
        return weighting.counts(self._tokenizer, self.tables.tokens, self._longest, self._context)


class Dev:
    """Dev examples in batches of like length, and what a model says of them.

    Args:
        model: The model that trials change, dense now.
        data: Encoded dev examples.
    """

    def __init__(self, model: Any, data: Encoded) -> None:
        order = sorted(range(len(data.labels)), key=lambda index: len(data.inputs[index]["input_ids"]))
        self._model, self._kind = model, kinds.get(data.kind)
        self._batches = [collate(data, order[at : at + ROWS], "cpu") for at in range(0, len(order), ROWS)]
        found = anatomy(model)
        padded = sum(batch["input_ids"].numel() for batch in self._batches)
        self._list = "" if found.shared or padded * hidden(model) * 4 > KEPT_BYTES else found.list_name
        self._at, self._given = 0, list[Any]()

    def begin_at(self, layer: int | str) -> None:
        """Keeps what the dense model's layers before this one give; the model is to be dense now."""
        if self._list and isinstance(layer, int) and layer > self._at:
            given: list[Any] = []
            last = self._model.get_submodule(f"{self._list}.{layer - 1}")
            handle = last.register_forward_hook(lambda module, inputs, output: given.append(output))
            try:
                self.judge(self._at)
            finally:
                handle.remove()
            self._at, self._given = layer, given

    def judge(self, layer: int | str = EMBEDDING) -> Any:
        """What two models are compared by, such as the logarithms of the probabilities of each example.

        It is ``[examples, …]``, in an order that stays the same.

        Args:
            layer: The first layer that is not dense.
        """
        torch = require("torch", "torch")
        whole = not self._given or not isinstance(layer, int) or layer < self._at
        found = []
        with torch.inference_mode(), self._shortened([] if whole else self._given):
            for batch in self._batches:
                inputs = {name: value for name, value in batch.items() if name != "labels"}
                found.append(self._kind.compared(self._kind.forward(self._model, inputs)))
        return torch.cat(found).numpy()

    @property
    def labels(self) -> Any:
        """The right labels, in the order of :meth:`judge`."""
        return require("torch", "torch").cat([batch["labels"] for batch in self._batches]).numpy()

    @contextmanager
    def _shortened(self, given: Sequence[Any]) -> Iterator[None]:
        """The model with a module in the place of its first layers that gives what they gave, batch by batch."""
        if not given:
            yield
            return
        torch = require("torch", "torch")
        outputs = iter(given)

        class Given(torch.nn.Module):  # type: ignore[misc,name-defined]
            def forward(self, *inputs: Any, **settings: Any) -> Any:
                return next(outputs)

        blocks = self._model.get_submodule(self._list)
        rest = torch.nn.ModuleList([Given(), *list(blocks)[self._at :]])
        shapes.replace(self._model, self._list, rest)
        try:
            yield
        finally:
            shapes.replace(self._model, self._list, blocks)


def rounded(weight: Any, bits: int) -> Any:
    """A matrix ``[out, in]`` rounded to signed integers of so many bits, with one scale for each output channel."""
    most = 2 ** (bits - 1) - 1
    scale = weight.abs().amax(dim=1, keepdim=True).clamp_min(1e-12) / most
    return (weight / scale).round() * scale


def _once(kept: Mapping[float, int]) -> list[tuple[float, int]]:
    """Settings of which each leaves another number."""
    return list({left: (setting, left) for setting, left in reversed(list(kept.items()))}.values())[::-1]


def _size(model: Any, index: int) -> LayerSize:
    layer = layers_of(model)[index]
    modules = {name: model.get_submodule(getattr(layer, name)) for name in MATRICES}
    ranks = {name: int(module.rank) for name, module in modules.items() if hasattr(module, "rank")}
    return LayerSize(
        runs=layer.runs, hidden=hidden(model), heads=heads(model, layer), head_size=head_size(model, layer),
        neurons=neurons(model, layer), ranks=ranks,
    )  # fmt: skip


def _tables(model: Any) -> TableSize:
    found = anatomy(model)
    table = model.get_submodule(found.embedding)
    rank, width = int(getattr(table, "rank", 0)), int(table.embedding_dim)
    every = sum(module.weight.numel() for module in _embeddings(model).values())
    return TableSize(
        tokens=int(table.num_embeddings), width=width, others=every - int(table.num_embeddings) * (rank or width),
        rank=rank, factors=not found.shared and not rank and width == hidden(model),
    )  # fmt: skip


def _embeddings(model: Any) -> dict[str, Any]:
    torch = require("torch", "torch")
    return {name: module for name, module in model.named_modules() if isinstance(module, torch.nn.Embedding)}


def _table_names(model: Any) -> list[str]:
    return list(_embeddings(model))
