"""Latency-aware pruning: "2 × faster" is asked for, and what leaves is chosen by times measured on the engine.

Heads, FFN neurons and whole layers leave together (joint coarse and fine pruning, CoFi, arXiv 2204.00408). A table says
what they cost on ONNX Runtime in fp32; Optimal Brain Surgeon says what each costs in the error of a layer's output; a
dynamic program finds the sizes with the least error within the time, for each number of layers that leaves, and the
candidate with the least loss on training examples is taken (ZipLM, Kurtic et al., arXiv 2302.04089). The engine of the
result is built and timed; as long as its speed is more than ``tolerance`` off, the time that is aimed at is corrected.
Where leaving out whole layers costs least of all, and that alone is faster than asked, nothing is put back.
"""

from __future__ import annotations

import itertools
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from toolchain.compress.shared import obs, pruning
from toolchain.compress.shared.budget import Option, cheapest
from toolchain.compress.shared.gradients import sample
from toolchain.compress.shared.recovery import Teacher, recover
from toolchain.compress.shared.stopwatch import stopwatch
from toolchain.compress.shared.targets import Units, unit_targets
from toolchain.compress.shared.time_table import TimeTable, measure
from toolchain.core import registry
from toolchain.core.errors import ModelError, require
from toolchain.core.launcher import processes
from toolchain.core.log import logger
from toolchain.core.stage import Context, Ge, Gt, Le, Lt, Metrics, StageConfig
from toolchain.engines.shared import timed_on
from toolchain.model import checkpoint, export, surgery, zeros
from toolchain.model.anatomy import anatomy, layers_of
from toolchain.model.encoded import Encoded
from toolchain.model.train import TrainConfig, accuracy

VERSION = 1
LIBRARIES = ("torch", "transformers", "tokenizers", "accelerate", "onnx", "onnxruntime")
METHOD = "pruned"

#: What leaves, beside whole layers, in the order in which a plan names it.
_KINDS: tuple[Units, ...] = ("heads", "ffn")

#: How often the time that is aimed at is corrected.
_CORRECTIONS = 4


@dataclass(frozen=True, kw_only=True)
class Config(StageConfig):
    """Settings of latency-aware pruning.

    Attributes:
        speedup: How many times as fast as the checkpoint that it is given the result is to be.
        batch_size: Sentences at a time when time is measured; 1 is latency.
        tolerance: How far the measured speed may be from the one that is asked for, as a part of it.
        rounds: Times that each engine goes through the sentences, in turn with the dense one.
        layers: Whether whole layers may leave.
        multiple_of: Neurons are kept in such multiples.
        calibration_samples: Training examples that errors are measured on.
        finetune: Train the smaller model with these settings; absent: leave it as it was cut.
        teacher: With finetune: the checkpoint that is pruned teaches the pruned one.
    """

    speedup: Annotated[float, Gt(1), Le(100)] = 2.0
    batch_size: Annotated[int, Ge(1), Le(1024)] = 1
    tolerance: Annotated[float, Gt(0), Lt(1)] = 0.05
    rounds: Annotated[int, Ge(3), Le(200)] = 9
    layers: bool = True
    multiple_of: Annotated[int, Ge(1)] = 16
    calibration_samples: Annotated[int, Ge(1), Le(100_000)] = 256
    finetune: TrainConfig | None = None
    teacher: Teacher | None = None

    def __post_init__(self) -> None:
        if self.teacher is not None and self.finetune is None:
            raise ValueError("teacher: nobody is taught without finetune; add finetune: {}")


def fingerprint(config: Config) -> dict[str, Any]:
    """What the times depend on."""
    versions = {"export": export.VERSION, "engine": registry.get("engines", registry.DEFAULT_ENGINE).version}
    return {**timed_on.fingerprint(registry.DEFAULT_ENGINE), **versions}


def tunes(config: Config) -> bool:
    """Times are those of a number of threads."""
    return True


@dataclass(frozen=True)
class _Plan:
    """Sizes of a smaller model.

    Attributes:
        kept: Layers that stay.
        heads: Heads of each physical layer that stays.
        neurons: Neurons of each.
        whole: Whether the layers that stay keep all their heads and neurons.
    """

    kept: tuple[int, ...]
    heads: tuple[int, ...]
    neurons: tuple[int, ...]
    whole: bool


def apply(source: Path, out: Path, config: Config, context: Context) -> Metrics:
    """Prunes a checkpoint until its engine is as fast as asked.

    Args:
        source: Checkpoint folder.
        out: Folder to write.
        config: Settings.
        context: Seed, threads, data, and a folder that keeps the chosen sizes when a run is killed.

    Returns:
        ``speedup`` as measured and as asked, heads, ffn, hidden, layers and parameters, and the same before, the
        ``time_table``, and what the training loop reports.

    Raises:
        ModelError: The engine cannot become that fast, or the architecture's layers cannot be cut.
    """
    tokenizer = checkpoint.load_tokenizer(source)
    model = checkpoint.load_model(source)
    before = pruning.size(model)
    zeros.warn_of_loss(model, "latency_prune")
    context.work.mkdir(parents=True, exist_ok=True)
    cut, chosen = context.work / "cut", context.work / "chosen.json"
    while processes()[0] and not chosen.is_file():
        time.sleep(1)  # the first process of a launch measures for all
    if not chosen.is_file():  # training may have been killed after it had been chosen
        shutil.rmtree(cut, ignore_errors=True)
        found = _Search(source, model, tokenizer, config, context).run(cut)
        checkpoint.write_json(chosen.with_suffix(".new"), found)
        chosen.with_suffix(".new").replace(chosen)
    found = checkpoint.read_json(chosen)
    model = checkpoint.load_model(cut)
    metrics: Metrics = {}
    if config.finetune is not None:
        metrics = recover(model, tokenizer, source, config.finetune, config.teacher, context)
    checkpoint.save_like(model, tokenizer, source, out)
    return metrics | found | pruning.size(model) | {"before": before}


class _Search:
    """Finds the sizes, with what several tries need made once."""

    def __init__(self, source: Path, model: Any, tokenizer: Any, config: Config, context: Context) -> None:
        self.source, self.model, self.tokenizer = source, model, tokenizer
        self.config, self.context = config, context
        self.data: Encoded = sample(model, tokenizer, context, config.calibration_samples)

    def run(self, out: Path) -> dict[str, Any]:
        """Writes the cut checkpoint and says how fast it is."""
        require("torch", "torch").set_num_threads(self.context.threads)
        texts = self.context.dataset().train.texts
        asked, work = self.config.speedup, self.context.work / "timed"
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        options: dict[str, Any] = {"batch_size": self.config.batch_size, "rounds": self.config.rounds}
        with stopwatch(self.source, texts, context=self.context, **options) as timed:
            logger.info("    timing heads, neurons and layers on the engine")
            table = measure(self.source, work, timed, self.config.multiple_of, self.tokenizer)
            self._check(table)
            aim, tries = 1 / asked, []
            for number in range(1 + _CORRECTIONS):
                plan = self._best(table, aim)
                folder = work / f"try-{number}"
                folder.mkdir()
                checkpoint.save_like(self._cut(plan), self.tokenizer, self.source, folder)
                reached = timed([folder])[0]
                tries.append(reached)
                logger.info("    %s: %.2f times as fast (asked: %g)", _told(plan), reached, asked)
                if abs(reached / asked - 1) <= self.config.tolerance or (plan.whole and reached > asked):
                    break
                aim *= reached / asked
            else:
                raise ModelError(
                    f"{asked:g} times as fast was not reached within {self.config.tolerance:.0%} in "
                    f"{len(tries)} tries: {', '.join(f'{t:.2f}' for t in tries)}",
                    "the machine may be busy: run again, with more rounds or a wider tolerance, or ask for one of "
                    "those" + ("" if self.config.layers else "; or let whole layers leave: layers: true"),
                )
        folder.rename(out)
        shutil.rmtree(work)
        times = {"layer": table.layer, "heads": dict(table.heads), "neurons": dict(table.neurons)}
        return {"speedup": reached, "asked": asked, "tries": tries, "time_table": times}

    def _check(self, table: TimeTable) -> None:
        least = [(1, self.config.multiple_of)] * (1 if self.config.layers else table.depth)
        most = 1 / max(1e-6, table.of(least))
        if most < self.config.speedup:
            raise ModelError(
                f"speedup {self.config.speedup:g} cannot be had: with one head and "
                f"{self.config.multiple_of} neurons in {'one layer' if self.config.layers else 'each layer'} "
                f"this model is {most:.2f} times as fast",
                f"ask for less than {most:.2f}" + ("" if self.config.layers else ", or let layers leave: layers: true"),
            )

    def _best(self, table: TimeTable, aim: float) -> _Plan:
        """The candidate with the least loss on training examples: one for each number of layers that leaves."""
        depth, candidates = anatomy(self.model).depth, []
        order = self._leaving()
        for gone in range(depth if self.config.layers else 1):
            kept = tuple(index for index in range(depth) if index not in order[:gone])
            plan = self._within(table, aim, kept)
            if plan is not None:
                candidates.append((self._loss(self._cut(plan)), gone, plan))
        if not candidates:
            raise ModelError(
                f"no sizes are as fast as {1 / aim:.2f} times by the table of times",
                "ask for a smaller speedup",
            )
        return min(candidates)[2]

    def _within(self, table: TimeTable, aim: float, kept: Sequence[int]) -> _Plan | None:
        """The sizes of least error within a time, when these layers stay."""
        errors = self._errors(kept)
        physical = layers_of(self.model)
        runs = [len(kept)] if len(physical) == 1 else [layer.runs for layer in physical]
        budget = aim - (1 - table.depth * table.layer) - len(kept) * table.layer
        saved: dict[str, Callable[[int], float]] = {"heads": table.saved_by_heads, "ffn": table.saved_by_neurons}
        groups = [
            [Option(cost, times * (saved[kind](max(sizes)) - saved[kind](left)), left) for left, cost in sizes.items()]
            for layer, times in zip(errors, runs, strict=False) for kind, sizes in layer.items()
        ]  # fmt: skip
        chosen = cheapest(groups, budget)
        if chosen is None:
            return None
        whole = chosen == [max(option.value for option in group) for group in groups]
        return _Plan(tuple(kept), tuple(chosen[::2]), tuple(chosen[1::2]), whole)

    def _errors(self, kept: Sequence[int]) -> list[dict[str, dict[int, float]]]:
        """By physical layer and kind: the error of a layer's output, by how many heads or neurons are left."""
        model = self._of_layers(kept)
        found: list[dict[str, dict[int, float]]] = [{} for _ in layers_of(model)]
        step = self.config.multiple_of
        for kind in _KINDS:
            targets = unit_targets(model, kind)
            hessians = obs.inputs(model, [target.name for target in targets], self.data)
            for target in targets:
                weight = target.weight(model)
                units, least = weight.shape[1] // target.columns, step if kind == "ffn" else 1
                order, _ = obs.eliminate(weight, hessians[target.name], target.columns, max(0, units - least))
                sizes = {units: 0.0} | {units - 1 - index: cost for index, cost in enumerate(order.costs)}
                own = {
                    left: cost for left, cost in sizes.items() if kind == "heads" or left % step == 0 or left == units
                }
                found[target.layer][kind] = own
        return found

    def _cut(self, plan: _Plan) -> Any:
        """The model at these sizes, what stays fitted to what has left."""
        model = self._of_layers(plan.kept)
        for index, kind in itertools.product(range(len(plan.heads)), _KINDS):
            target = unit_targets(model, kind)[index]
            left = (plan.heads if kind == "heads" else plan.neurons)[index]
            weight = target.weight(model)
            units = weight.shape[1] // target.columns
            if left >= units:
                continue
            hessian = obs.inputs(model, [target.name], self.data)[target.name]
            order, fitted = obs.eliminate(weight, hessian, target.columns, units - left)
            with require("torch", "torch").no_grad():
                weight.copy_(fitted)
            keep = surgery.keep_heads if kind == "heads" else surgery.keep_neurons
            keep(model, layers_of(model)[index], [unit for unit in range(units) if unit not in set(order.order)])
        return model

    def _of_layers(self, kept: Sequence[int]) -> Any:
        model = checkpoint.load_model(self.source)
        if len(kept) < anatomy(model).depth:
            surgery.keep_layers(model, kept)
        return model

    def _leaving(self) -> list[int]:
        """Layers in the order in which they leave: each time the one without which the loss is least."""
        depth = anatomy(self.model).depth
        if not self.config.layers or anatomy(self.model).shared:
            return list(range(depth))[::-1]
        gone: list[int] = []
        while len(gone) < depth - 1:
            rest = [index for index in range(depth) if index not in gone]
            losses = [(self._loss(self._of_layers([i for i in rest if i != index])), -index) for index in rest]
            gone.append(-min(losses)[1])
        return gone

    def _loss(self, model: Any) -> float:
        return accuracy(model, self.data)[1]


def _told(plan: _Plan) -> str:
    return f"{len(plan.kept)} layers, heads {list(plan.heads)}, neurons {list(plan.neurons)}"
