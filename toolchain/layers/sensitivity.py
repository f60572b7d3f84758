"""What each layer costs on dev when a technique compresses it alone: the sensitivity of a checkpoint.

Each setting is applied to one part of one physical layer, in memory, on a copy, with everything else dense and nothing
trained; accuracy, cross-entropy and probabilities on dev are compared with the dense checkpoint's on the same examples.
Test is never read. It is the analysis that HAWQ makes of layers (Dong et al., arXiv 1905.03696) and ZipLM of sizes
(Kurtic et al., arXiv 2302.04089), measured in place of estimated. A run that is killed goes on where it was.

``sensitivity.json``::

    version      1
    checkpoint   key of the checkpoint that was measured
    task         {name: settings}
    settings     the Config
    dense        accuracy, loss, examples, mean_tokens, parameters, bytes (of an fp32 file), flops (at the mean length)
    layers       of each physical layer: runs, hidden, heads, head_size, neurons, ranks it has already
    tables       of the embedding tables: tokens, width, others, rank, factors (whether they may become two)
    rows         of each setting:
      technique  sparsity, heads, ffn, rank or bits
      layer      physical layer from 0, or "embedding"
      part       heads, ffn, a matrix (query, key, value, output, ffn_in, ffn_out, embedding), or layer for all of them
      setting    the part that leaves; of rank the part of the parameters that stays; bits
      kept       what is left: heads, neurons, the rank, weights that are not zero, bits
      accuracy, loss, flips             of dev; flips are labels that are not the dense checkpoint's
      loss_increase, loss_increase_error    mean over the examples, and its standard error
      divergence mean Kullback-Leibler divergence of its probabilities from the dense checkpoint's: never below 0
      parameters, bytes, flops          what it saves; of sparsity: only where a format or a kernel skips zeros
    time         with time: parts of the dense model's time: layer, and what a layer with so many heads or neurons saves
    notes        what was asked for and does not fit this model

``sensitivity.svg`` shows each technique's divergences and losses, a line for every layer.
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np

from toolchain import kinds
from toolchain.compress.shared import time_table
from toolchain.compress.shared.stopwatch import stopwatch
from toolchain.core import registry
from toolchain.core.data import CLASSIFICATION
from toolchain.core.errors import DataError, RecipeError, require
from toolchain.core.interrupt import held_back
from toolchain.core.log import logger, progress
from toolchain.core.stage import Context, Ge, Gt, Le, Lt, Metrics, StageConfig
from toolchain.engines.shared import timed_on
from toolchain.layers import panels, sensitivity_file
from toolchain.layers.costs import BLOCKS, MATRICES, channel_bytes
from toolchain.layers.trials import EMBEDDING, Bench, Dev, Trial
from toolchain.model import checkpoint, export
from toolchain.model.encoded import Encoded, encode
from toolchain.model.labels import match_labels
from toolchain.model.tokens import truncation_note

VERSION = 1
LIBRARIES = ("torch", "transformers", "tokenizers")

SENSITIVITY_FILE = "sensitivity.json"
PLOT_FILE = "sensitivity.svg"
JOURNAL_FILE = "journal.jsonl"

#: Techniques, in the order in which a table and a plot show them.
TECHNIQUES = ("heads", "ffn", "rank", "sparsity", "bits")


@dataclass(frozen=True, kw_only=True)
class Config(StageConfig):
    """What is tried on each layer. An empty list leaves a technique out.

    Attributes:
        heads: Parts of a layer's attention heads that are removed, by Optimal Brain Surgeon.
        ffn: Parts of a layer's FFN neurons that are removed, likewise.
        rank: Parts of a matrix's parameters that two thin factors keep, weighted by what the matrix reads.
        sparsity: Parts of a layer's weights that become zero.
        criterion: How those weights are chosen: obs fits the others anew.
        bits: Widths that a layer's weights, or the embedding tables, are rounded to, with a scale for each output
            channel; weight_only carries out 8 and 4.
        multiple_of: Neurons and ranks come in such multiples.
        dev_examples: Dev examples that are read, drawn by the seed; 0 reads all.
        calibration_samples: Training examples that Hessians and activations are gathered on.
        time: Also measure what heads and neurons cost in time on ONNX Runtime in fp32, which allocate --time needs.
        batch_size: With time: sentences at a time; 1 is latency.
        rounds: With time: how often each engine goes through the sentences, in turn with the dense one.
    """

    heads: tuple[Annotated[float, Gt(0), Lt(1)], ...] = (0.25, 0.5, 0.75)
    ffn: tuple[Annotated[float, Gt(0), Lt(1)], ...] = (0.25, 0.5, 0.75)
    rank: tuple[Annotated[float, Gt(0), Lt(1)], ...] = (0.25, 0.5, 0.75)
    sparsity: tuple[Annotated[float, Gt(0), Lt(1)], ...] = (0.5, 0.7, 0.9)
    criterion: Literal["obs", "magnitude"] = "obs"
    bits: tuple[Literal[2, 3, 4, 8], ...] = (8, 4, 3, 2)
    multiple_of: Annotated[int, Ge(1), Le(1024)] = 16
    dev_examples: Annotated[int, Ge(0)] = 512
    calibration_samples: Annotated[int, Ge(1), Le(100_000)] = 256
    time: bool = False
    batch_size: Annotated[int, Ge(1), Le(1024)] = 1
    rounds: Annotated[int, Ge(3), Le(200)] = 9

    def __post_init__(self) -> None:
        if not any(getattr(self, name) for name in TECHNIQUES):
            raise ValueError(f"nothing is tried: give one of {', '.join(TECHNIQUES)} a setting")


def tunes(config: Config) -> bool:
    """Whether times, which are those of a number of threads, are part of it."""
    return config.time


def fingerprint(config: Config) -> dict[str, Any]:
    """What measured times depend on."""
    return timed_on.fingerprint(registry.DEFAULT_ENGINE) if config.time else {}


def measure(
    source: Path, out: Path, config: Config, context: Context, origin: Mapping[str, Any] | None = None
) -> Metrics:
    """Measures a checkpoint.

    Args:
        source: Checkpoint folder.
        out: Gets ``sensitivity.json`` and ``sensitivity.svg``.
        config: What is tried.
        context: Dev and training examples, seed, threads, and a folder for the journal.
        origin: What the record says of where the checkpoint came from: ``checkpoint`` and ``task``.

    Returns:
        ``accuracy`` and ``loss`` of the dense checkpoint on dev, the number of ``examples`` and of ``rows``.

    Raises:
        ModelError: The architecture's layers cannot be told, or its labels are not the task's.
        DataError: There are no dev examples.
        RecipeError: No setting fits the model.
    """
    require("torch", "torch").set_num_threads(context.threads)
    context.work.mkdir(parents=True, exist_ok=True)
    model, tokenizer = checkpoint.load_model(source), checkpoint.load_tokenizer(source)
    longest = int(checkpoint.read_json(source / "interface.json")["max_length"])
    bench = Bench(model, tokenizer, config, context, longest)
    trials = bench.trials()
    notes = _notes(config, trials)
    if not trials:
        raise RecipeError(f"no setting fits this model: {'; '.join(notes)}", "give other strengths, or multiple_of: 1")
    examples = _examples(source, model, tokenizer, config, context, longest)
    dev = Dev(model, examples)
    tokens = export.mean_tokens(tokenizer, context, longest)
    dense, rows = _measure(bench, dev, trials, context, round(tokens))
    parameters = checkpoint.count_parameters(model)
    eager = checkpoint.load_model(source, attention="eager")  # whose products inside attention are counted
    dense |= {
        "mean_tokens": tokens, "parameters": parameters, "bytes": 4 * parameters,
        "flops": export.operations(eager, round(tokens)),
    }  # fmt: skip
    record = {
        "version": sensitivity_file.VERSION,
        **(origin or {"checkpoint": None, "task": None}),
        "settings": asdict(config),
        "dense": dense,
        "layers": [size.record() for size in bench.layers],
        "tables": bench.tables.record(),
        "rows": rows,
        "time": _times(source, tokenizer, config, context) if config.time else None,
        "notes": notes,
    } | ({} if examples.kind == CLASSIFICATION else {"kind": examples.kind})
    checkpoint.write_json(out / SENSITIVITY_FILE, record)
    (out / PLOT_FILE).write_text(plot(record), "utf-8")
    cut = truncation_note({"dev": (examples.cut, len(examples.labels))}, longest)
    return {
        **{name: dense[name] for name in ("accuracy", "loss", "examples")},
        "rows": len(rows),
        **({"notes": [cut]} if cut else {}),
    }


def _measure(
    bench: Bench, dev: Dev, trials: Sequence[Trial], context: Context, tokens: int
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The dense model's figures, and a row for each trial; what a killed run has made is taken from its journal."""
    journal = context.work / JOURNAL_FILE
    known = {_name(row): row for row in _read(journal)}
    left = [trial for trial in trials if _name(asdict(trial)) not in known]
    whole, gold, kind = dev.judge(), dev.labels, kinds.get(context.dataset().kind)
    losses = kind.losses(whole, gold)
    dense = {
        "accuracy": kind.combine(kind.score(whole, gold)), "loss": float(losses.mean()), "examples": len(gold),
    }  # fmt: skip
    bench.prepare(left)
    if len(left) < len(trials):
        logger.info("    going on: %d of %d settings are measured", len(trials) - len(left), len(trials))
    with progress("sensitivity", len(left)) as bar:
        for trial in left:
            dev.begin_at(trial.layer)
            with bench.changed(trial):
                found = dev.judge(trial.layer)
            given = kind.losses(found, gold)
            change = given - losses
            row = asdict(trial) | {
                "accuracy": kind.combine(kind.score(found, gold)),
                "loss": float(given.mean()),
                "loss_increase": float(change.mean()),
                "loss_increase_error": float(change.std() / np.sqrt(len(change))),
                "divergence": float(kind.divergence(whole, found).mean()),
                "flips": int(kind.agree(whole, found).differs.sum()),
                **_saved(bench, trial, tokens),
            }
            known[_name(row)] = row
            with held_back(), journal.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
                file.flush()
            bar.advance(note=f"layer {trial.layer}, {trial.technique} {trial.setting:g}: {row['divergence']:.4f}")
    return dense, [known[_name(asdict(trial))] for trial in trials]


def _saved(bench: Bench, trial: Trial, tokens: int) -> dict[str, int]:
    """Parameters, bytes and FLOPs that a trial saves."""
    if trial.layer == EMBEDDING:
        tables = bench.tables
        if trial.technique == "bits":
            rows = tables.tokens + tables.others // tables.width
            return _as_bits(tables.table(), rows, trial.kept)
        gone = tables.table() - tables.table(trial.kept) - tables.projection(trial.kept)
        return {"parameters": gone, "bytes": 4 * gone, "flops": -2 * tokens * tables.projection(trial.kept)}
    size = bench.layers[int(trial.layer)]
    if trial.technique == "bits":
        return _as_bits(size.whole, sum(size.shape(name)[0] for name in MATRICES), trial.kept)
    products = 0
    if trial.technique == "sparsity":
        weights = gone = size.whole - trial.kept
    elif trial.technique == "rank":
        weights = gone = size.weights(trial.part) - size.weights(trial.part, rank=trial.kept)
    else:
        left = {"heads" if trial.technique == "heads" else "neurons": trial.kept}
        parts = BLOCKS["attention" if trial.technique == "heads" else "ffn"]
        weights = sum(size.weights(name) - size.weights(name, **left) for name in parts)
        gone = weights + size.biases() - size.biases(**left)
        products = size.products(tokens) - size.products(tokens, left.get("heads"))
    return {"parameters": gone, "bytes": 4 * gone, "flops": size.flops(tokens, weights) + products}


def _as_bits(weights: int, channels: int, bits: int) -> dict[str, int]:
    return {"parameters": 0, "bytes": 4 * weights - channel_bytes(weights, channels, bits), "flops": 0}


def _examples(source: Path, model: Any, tokenizer: Any, config: Config, context: Context, longest: int) -> Encoded:
    """Dev examples drawn by the seed, labelled in the order of the model's logits."""
    dataset = context.dataset()
    count = len(dataset.dev)
    if not count:
        raise DataError("the task has no dev examples, and sensitivity reads nothing else", "give the task a dev split")
    drawn = range(count)
    if 0 < config.dev_examples < count:
        drawn = sorted(random.Random(context.seed).sample(range(count), config.dev_examples))  # type: ignore[assignment]
    names = tuple(checkpoint.read_json(source / "interface.json")["labels"])
    index, _ = match_labels(names, dataset.labels, source)
    data = encode(tokenizer, dataset.dev.take(list(drawn)), longest, checkpoint.model_inputs(model, tokenizer))
    return replace(data, labels=kinds.get(data.kind).reordered(data.labels, index))


def _notes(config: Config, trials: Sequence[Trial]) -> list[str]:
    """Techniques that were asked for and change nothing here."""
    tried = {trial.technique for trial in trials}
    found = [
        f"{name}: none of {', '.join(f'{value:g}' for value in getattr(config, name))} makes a layer smaller"
        for name in TECHNIQUES if getattr(config, name) and name not in tried
    ]  # fmt: skip
    for note in found:
        logger.warning("    %s", note)
    return found


def _times(source: Path, tokenizer: Any, config: Config, context: Context) -> dict[str, Any]:
    """The table of times, measured once however often a run is killed after it."""
    kept = context.work / "time.json"
    if not kept.is_file():
        logger.info("    timing heads, neurons and layers on the engine")
        work = context.work / "timed"
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        texts = context.dataset().dev.texts
        with stopwatch(source, texts, batch_size=config.batch_size, rounds=config.rounds, context=context) as time:
            table = time_table.measure(source, work, time, config.multiple_of, tokenizer)
        shutil.rmtree(work)
        checkpoint.write_json(kept, {
            "layer": table.layer, "depth": table.depth, "heads": {str(n): t for n, t in table.heads.items()},
            "neurons": {str(n): t for n, t in table.neurons.items()},
        })  # fmt: skip
    return checkpoint.read_json(kept)


def _name(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(row[name] for name in ("technique", "layer", "part", "setting"))


def _read(journal: Path) -> Iterator[dict[str, Any]]:
    """The rows of a journal; a line that was cut is dropped."""
    if not journal.is_file():
        return
    whole = [line for line in journal.read_text("utf-8").splitlines(keepends=True) if line.endswith("\n")]
    journal.write_text("".join(whole), "utf-8")
    for line in whole:
        yield json.loads(line)


def plot(record: Mapping[str, Any]) -> str:
    """The record as an SVG: a panel for each technique, a line for each layer; divergences above, losses below.

    A layer's line for rank is the sum over its matrices.
    """
    dense, metric = record["dense"], kinds.named(record).METRIC
    title = (
        f"one layer alone is compressed; {dense['examples']} dev examples, dense: {metric.name} "
        f"{metric.shown(dense['accuracy'], 1)}, loss {dense['loss']:.4f}"
    )
    rows = [
        panels.Row("divergence of the probabilities from the dense checkpoint's", 1e-5, _panels(record, "divergence")),
        panels.Row("increase of the loss", 1e-3, _panels(record, "loss_increase")),
    ]
    tables = [EMBEDDING] if any(row["layer"] == EMBEDDING for row in record["rows"]) else []
    return panels.draw(title, rows, [*tables, *map(str, range(len(record["layers"])))])


def _panels(record: Mapping[str, Any], column: str) -> list[panels.Panel]:
    axes = {
        "heads": "part of the heads removed", "ffn": "part of the neurons removed",
        "rank": "part of the parameters kept", "sparsity": "part of the weights set to zero",
        "bits": "bits of a weight",
    }  # fmt: skip
    found = []
    for technique in TECHNIQUES:
        rows = [row for row in record["rows"] if row["technique"] == technique]
        settings = sorted({row["setting"] for row in rows}, reverse=technique in ("rank", "bits"))
        lines: dict[str, dict[float, float]] = {}
        for row in rows:
            line = lines.setdefault(str(row["layer"]), {})
            line[row["setting"]] = line.get(row["setting"], 0.0) + row[column]
        if rows:
            found.append(panels.Panel(technique, axes[technique], settings, lines))
    return found
