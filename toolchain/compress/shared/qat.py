"""What the techniques of quantization in training share: what is quantized, ranges of activations, and the training."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from toolchain.compress.shared.gradients import sample
from toolchain.compress.shared.recovery import Teacher, recover
from toolchain.core.errors import RecipeError, require
from toolchain.core.log import logger, progress
from toolchain.core.patterns import bits_by_group
from toolchain.core.stage import Context, Ge, Gt, Le, Metrics, StageConfig
from toolchain.model import checkpoint
from toolchain.model.anatomy import anatomy
from toolchain.model.encoded import Encoded, collate
from toolchain.model.source import Shape
from toolchain.model.train import Hooks, TrainConfig

#: Sentences that are read at a time to find ranges.
_BATCH = 16
#: More layers than an encoder has.
_MOST_LAYERS = 100


@dataclass(frozen=True, kw_only=True)
class Activations(StageConfig):
    """How what the layers read is quantized, to 8 bits.

    Attributes:
        symmetric: Signed integers around zero, which every engine takes; otherwise unsigned ones with a zero point.
        percentile: The part of the values, in percent, that the range covers in a batch of training examples; of all
            batches' ranges the widest is taken.
        samples: Training examples that are read for it.
    """

    symmetric: bool = True
    percentile: Annotated[float, Gt(50), Le(100)] = 99.99
    samples: Annotated[int, Ge(1), Le(100_000)] = 128


@dataclass(frozen=True, kw_only=True)
class QatConfig(StageConfig):
    """Settings of every technique that quantizes in training.

    Attributes:
        bits: Bits of a weight of the linear layers.
        embedding_bits: Bits of a number in the tables of embeddings; null leaves them as they are.
        bits_by_group: Bits in place of both for some groups, such as layer 3 ffn, or by shell pattern, such as
            layer * attention; a name goes before a pattern, null leaves a group as it is.
        per_channel: A step for each output channel instead of one for a weight.
        activations: How what the layers read is quantized.
        finetune: Settings of the training; null: round, and train nothing.
        teacher: With finetune: the checkpoint that is quantized teaches the quantized one.
    """

    bits: Annotated[int, Ge(2), Le(8)] = 8
    embedding_bits: Annotated[int, Ge(2), Le(8)] | None = 8
    bits_by_group: dict[str, Annotated[int, Ge(2), Le(8)] | None] = field(default_factory=dict)
    per_channel: bool = True
    activations: Activations = Activations()
    finetune: TrainConfig | None = field(default_factory=lambda: TrainConfig(epochs=2))
    teacher: Teacher | None = field(default_factory=Teacher)

    def __post_init__(self) -> None:
        if self.teacher is not None and self.finetune is None:
            raise ValueError("teacher: nobody is taught without finetune; give finetune, or teacher: null")


def exports(config: QatConfig) -> str:
    """The dialect of the graph that such a model is exported to."""
    return "qdq" if config.activations.symmetric else "qdq-asymmetric"


def widths(config: QatConfig) -> tuple[set[int], int | None]:
    """The bits that linear layers may have in some model, and those of the tables of embeddings.

    For want of a model there are as many layers as any has, so that a name leaves others and a pattern may not.
    """
    names = config.bits_by_group
    shared = [name.rpartition(" ")[0] for name in names if name.startswith("layers ")]
    layers = [*shared, *(f"layer{'s' if shared else ''} {index}" for index in range(_MOST_LAYERS))]
    try:
        bits = group_bits(config, _groups(layers))
    except RecipeError:  # told where the groups of the model are known
        return {config.bits}, config.embedding_bits
    tables = bits.pop("embeddings")
    return {each for each in bits.values() if each}, tables


def fits(config: QatConfig, shape: Shape) -> tuple[str, str] | None:
    """Why a model of this shape cannot be quantized so, and what to do; None where it can."""
    shared = shape.physical < shape.layers
    if shared and shape.physical > 1:
        return None  # groups of layers, which the model itself tells
    layers = [f"layers 0-{shape.layers - 1}"] if shared else [f"layer {index}" for index in range(shape.layers)]
    try:
        group_bits(config, _groups(layers))
    except RecipeError as error:
        return error.message, error.hint
    return None


def _groups(layers: Sequence[str]) -> list[str]:
    return ["embeddings", *(f"{layer} {part}" for layer in layers for part in ("attention", "ffn")), "classifier"]


def group_bits(config: QatConfig, groups: Sequence[str]) -> dict[str, int | None]:
    """The bits of every group.

    Args:
        config: Settings.
        groups: Names of the groups that there are.

    Raises:
        RecipeError: A name fits no group, or two patterns give one group two widths, or nothing is left to quantize.
    """
    plain = {group: config.embedding_bits if group == "embeddings" else config.bits for group in groups}
    found = plain | bits_by_group(config.bits_by_group, groups)
    if not any(found.values()):
        raise RecipeError(
            "bits_by_group: every group is null, and nothing is left to quantize", "give one of them bits"
        )
    return found


def grouped(model: Any) -> dict[str, list[str]]:
    """Names of the modules that may be quantized, by group: what gives the logits stays as it is."""
    torch = require("torch", "torch")
    found: dict[str, list[str]] = {"embeddings": []}
    layers = anatomy(model).layers
    first = 0
    for layer in layers:
        last = first + layer.runs - 1
        place = f"layer {first}" if layer.runs == 1 else f"layers {first}-{last}"
        parts = {"attention": (layer.query, layer.key, layer.value, layer.output), "ffn": (layer.ffn_in, layer.ffn_out)}
        found |= {
            f"{place} {part}": [n for own in names for n in _linears(model, own)] for part, names in parts.items()
        }
        first = last + 1
    found["classifier"] = []
    inside = {name for names in found.values() for name in names}
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Embedding):
            found["embeddings"].append(name)
        elif isinstance(module, torch.nn.Linear) and name not in inside:
            within = name.startswith(f"{model.base_model_prefix}.")
            if within or module.out_features != model.num_labels:
                found["embeddings" if within and "pooler" not in name else "classifier"].append(name)
    return found


def _linears(model: Any, name: str) -> Iterator[str]:
    """A linear layer's name, or the names of the two that it was factorized into."""
    torch = require("torch", "torch")
    for inner, module in model.get_submodule(name).named_modules():
        if isinstance(module, torch.nn.Linear):
            yield f"{name}.{inner}" if inner else name


def train(
    source: Path, out: Path, config: QatConfig, context: Context,
    form: Callable[[int], Any], table: Callable[[Any, Any], Any] | None = None,
    step: Callable[[Any, Any], Any] | None = None, rates: Mapping[str, float] | None = None, *, learned: bool = False,
) -> Metrics:  # fmt: skip
    """Quantizes a checkpoint, and trains it so.

    Args:
        source: Checkpoint folder.
        out: Folder to write.
        config: Settings.
        context: Seed, threads, data, and the folder whose state is resumed from.
        form: The :class:`~toolchain.model.quantized.WeightFormat` of so many bits.
        table: Levels of a weight of a format, where they are no uniform ones.
        step: Steps of a weight of a format, ``[rows]`` or ``[1]``, where they are trained.
        rates: Peak learning rates by the last part of a parameter's name, for those that have one of their own.
        learned: Whether steps of activations are trained.

    Returns:
        ``bits`` by group, ``sqnr_db`` of the weights after training and before, ``parameters``, and what the training
        loop reports.

    Raises:
        ModelError: The checkpoint is quantized already.
        RecipeError: A name fits no group of layers.
    """
    from toolchain.model import quantized

    checkpoint.refuse_quantized(source)
    model, tokenizer = checkpoint.load_model(source), checkpoint.load_tokenizer(source)
    groups = grouped(model)
    bits = group_bits(config, list(groups))
    width = {name: bits[group] for group, names in groups.items() for name in names if bits[group]}
    torch = require("torch", "torch")
    linear = [name for name in width if isinstance(model.get_submodule(name), torch.nn.Linear)]
    formats = {name: form(int(number)) for name, number in width.items() if number is not None}
    # What is multiplied with floats is not rounded: there is no integer product.
    whole = [name for name in linear if formats[name].levels == "uniform" or formats[name].top]
    data = sample(model, tokenizer, context, config.activations.samples)
    ranges = _ranges(model, whole, data, config.activations, context.threads)
    shared = _shared(model, whole)
    one = quantized.ActivationFormat(symmetric=config.activations.symmetric, learned=learned)
    reads = {name: one for name in whole if name not in shared}
    weights = {name: model.get_submodule(name).weight.detach().clone() for name in formats}
    tables = {name: table(weights[name], one) for name, one in formats.items() if table and one.levels == "table"}
    quantized.quantize(model, formats, reads, shared, tables)
    for name, module in quantized.layers(model).items():
        if name in reads:
            module.reads.set_range(*ranges[name])
        if step is not None and hasattr(module.weights, "log_step"):
            with torch.no_grad():
                module.weights.log_step.copy_(step(weights[name], formats[name]).log())
    before = _sqnr(model)
    logger.info("    %d weights quantized, SQNR %.1f dB", len(formats), before)
    metrics: Metrics = {}
    if config.finetune is not None:
        hooks = _hooks(model, rates or {})
        metrics = recover(model, tokenizer, source, config.finetune, config.teacher, context, hooks)
    checkpoint.save_like(model, tokenizer, source, out)
    return metrics | {
        "bits": bits,
        "sqnr_db": _sqnr(model), "sqnr_before_db": before,
        "parameters": checkpoint.count_parameters(model),
    }  # fmt: skip


def _hooks(model: Any, rates: Mapping[str, float]) -> Hooks:
    own = {
        name: rates[last] for name, parameter in model.named_parameters()
        if (last := name.rpartition(".")[2]) in rates and parameter.requires_grad
    }  # fmt: skip
    return Hooks(learning_rates=own)


def _shared(model: Any, linear: Sequence[str]) -> dict[str, str]:
    """Keys and values read what queries read: by name, the layer whose quantizer they read through."""
    chosen = set(linear)
    found: dict[str, str] = {}
    for layer in anatomy(model).layers:
        names = [next(_linears(model, name)) for name in (layer.query, layer.key, layer.value)]
        if names[0] in chosen:
            found |= {name: names[0] for name in names[1:] if name in chosen}
    return found


def _ranges(
    model: Any, linear: Sequence[str], data: Encoded, config: Activations, threads: int
) -> dict[str, tuple[float, float]]:
    """The range of what each linear layer reads: the widest of those that a batch's percentile cuts off."""
    torch = require("torch", "torch")
    torch.set_num_threads(threads)
    found: dict[str, tuple[float, float]] = {}

    def watch(name: str) -> Callable[[Any, Any], None]:
        def seen(module: Any, inputs: Any) -> None:
            values = inputs[0].detach().flatten()
            beyond = values.numel() * (1 - config.percentile / 100)
            if config.symmetric:
                high = float(values.abs().topk(max(1, math.floor(beyond))).values[-1])
                low = -high
            else:
                rest = max(1, math.floor(beyond / 2))
                low, high = (float(values.topk(rest, largest=top).values[-1]) for top in (False, True))
            before = found.get(name, (low, high))
            found[name] = (min(low, before[0]), max(high, before[1]))

        return seen

    handles = [model.get_submodule(name).register_forward_pre_hook(watch(name)) for name in linear]
    model.eval()
    try:
        with torch.inference_mode(), progress("ranges", len(data.labels)) as bar:
            for start in range(0, len(data.labels), _BATCH):
                rows = range(start, min(start + _BATCH, len(data.labels)))
                batch = collate(data, list(rows), "cpu")
                model(**{name: value for name, value in batch.items() if name != "labels"})
                bar.advance(len(rows))
    finally:
        for handle in handles:
            handle.remove()
    return found


def _sqnr(model: Any) -> float:
    """Signal-to-quantization-noise ratio of all quantized weights together, in decibels."""
    from toolchain.model import quantized

    torch = require("torch", "torch")
    signal = noise = 0.0
    with torch.no_grad():
        for module in quantized.layers(model).values():
            rounded = module.weights(module.weight)
            signal += float(module.weight.double().square().sum())
            noise += float((module.weight.double() - rounded.double()).square().sum())
    return 10 * math.log10(signal / max(noise, 1e-30))
