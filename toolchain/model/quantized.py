"""Layers that round their weights, and what they read, while they are trained: fake quantization.

A weight becomes ``w ≈ s_c · L[k]``: a step ``s_c`` for each output channel (or one for all), and the nearest of a table
of levels. Uniform levels are the integers of so many bits; other tables are powers of a base, or are learned. As long
as levels are integers from −127 to 127, an int8 kernel multiplies them as they are: :mod:`toolchain.model.integer`
exports such layers. What a layer reads becomes ``x ≈ s · (round(x / s) + z)``, one step for a whole tensor.

Rounding has no slope: gradients pass it as if it were not there (straight-through estimator, Bengio et al., arXiv
1308.3432), and stop where a range cuts off. Steps that are learned have LSQ's gradient (Esser et al., arXiv
1902.08153), without its factor ``1/√(N·Q)``, which Adam would undo. They are kept as logarithms, so that Adam, whose
steps are of one size for all, changes each by the same part of itself. ``config.json`` says under
``toolchain_quantizers`` what is quantized how; the latent weights and the steps stand in ``model.safetensors``.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch

from toolchain.core.errors import ModelError
from toolchain.model.shapes import QUANTIZERS

#: Largest integer that an int8 kernel multiplies, of either sign.
TOP = 127


@dataclass(frozen=True)
class WeightFormat:
    """How a weight is quantized.

    Attributes:
        bits: Of the index of a level.
        levels: ``uniform``, or ``table``, which stands in the weights' file.
        channels: A step for each output channel (each row of a table of embeddings) instead of one.
        learned: Steps, or for tables the levels, are trained.
        top: With a table: the integer that its largest level is; 0 where the levels are no integers.
    """

    bits: int
    levels: str = "uniform"
    channels: bool = True
    learned: bool = False
    top: int = TOP

    def __post_init__(self) -> None:
        if self.levels not in ("uniform", "table") or self.bits not in range(2, 9) or self.top not in range(TOP + 1):
            raise ValueError(f"{self} is no format of a weight")

    @property
    def entries(self) -> int:
        """Levels of a table beside 0, which all have: what is pruned stays so. Fixed ones are as many on both sides."""
        return int(2**self.bits - (1 if self.learned else 2))


@dataclass(frozen=True)
class ActivationFormat:
    """How what a layer reads is quantized.

    Attributes:
        bits: Bits of an integer.
        symmetric: Signed integers around zero; otherwise unsigned ones with a zero point.
        learned: The step is trained.
    """

    bits: int = 8
    symmetric: bool = True
    learned: bool = False

    @property
    def range(self) -> tuple[int, int]:
        """The least and the largest integer; −128 has no counterpart, so symmetric ranges leave it out."""
        half = 2 ** (self.bits - 1)
        return (1 - half, half - 1) if self.symmetric else (0, 2 * half - 1)


class WeightQuantizer(torch.nn.Module):  # type: ignore[misc]
    """Rounds a matrix.

    Args:
        format: How.
        channels: Rows of the matrix.
        levels: With a table: its levels beside 0, ``[levels]``, from −1 to 1.
    """

    def __init__(self, format: WeightFormat, channels: int, levels: torch.Tensor | None = None) -> None:
        super().__init__()
        self.format = format
        steps = torch.zeros(channels if format.channels else 1)
        if format.levels == "uniform" and format.learned:
            self.log_step = torch.nn.Parameter(steps)
        if format.levels == "table":
            table = torch.zeros(format.entries) if levels is None else levels.clone()
            if format.learned:
                self.levels = torch.nn.Parameter(table)
            else:
                self.register_buffer("levels", table)

    @property
    def most(self) -> int:
        """The largest integer of uniform levels."""
        return int(2 ** (self.format.bits - 1) - 1)

    def step(self, weight: torch.Tensor, rows: torch.Tensor | None = None) -> torch.Tensor:
        """The distance between integers, ``[rows, 1]`` or ``[1, 1]``, above 0.

        It is the trained one; or such that the largest level is the largest weight.
        """
        if hasattr(self, "log_step"):
            return (self.log_step if rows is None else self.log_step[rows]).exp()[:, None]
        largest = weight.detach().abs().amax(dim=1 if self.format.channels else (0, 1), keepdim=True)
        return largest.clamp_min(1e-8) / (self.most if self.format.levels == "uniform" else (self.format.top or 1))

    def table(self) -> torch.Tensor:
        """The levels as they are multiplied, 0 the last, ``[levels + 1]``: integers, where ``top`` is one."""
        found = torch.cat([self.levels.clamp(-1, 1), torch.zeros_like(self.levels[:1])]) * (self.format.top or 1)
        if not self.format.top:
            return found
        return found + (found.round() - found).detach()

    def forward(self, weight: torch.Tensor, rows: torch.Tensor | None = None) -> torch.Tensor:
        """``[rows, columns]`` → the same, rounded, fp32; of a matrix with a step for each row, some ``rows`` alone."""
        with torch.autocast(weight.device.type, enabled=False):
            step = self.step(weight, rows)
            if hasattr(self, "log_step"):
                return rounded(weight, step, torch.zeros_like(step), -self.most, self.most)
            if self.format.levels == "uniform":  # the largest weight is the largest integer: nothing is cut off
                found = (weight.detach() / step).round().clamp(-self.most, self.most) * step
                return found + (weight - weight.detach())
            table = self.table()
            found = table[self.nearest(weight.detach() / step, table)] * step
            # The value is the level's, which has the level's gradient; the weight has the identity's.
            return found + (weight - weight.detach())

    def nearest(self, scaled: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
        """Index of the nearest level of every number."""
        ordered, order = table.detach().sort()
        return order[torch.bucketize(scaled, (ordered[1:] + ordered[:-1]) / 2)]

    def integers(self, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """What is multiplied, ``[rows, columns]``, and the steps, ``[rows]`` or ``[1]``."""
        with torch.no_grad():
            step = self.step(weight)
            scaled = weight / step
            if self.format.levels == "uniform":
                return scaled.round().clamp(-self.most, self.most), step.flatten()
            table = self.table()
            return table[self.nearest(scaled, table)], step.flatten()


class ActivationQuantizer(torch.nn.Module):  # type: ignore[misc]
    """Rounds what a layer reads, one step for the whole tensor.

    Args:
        format: How.
    """

    def __init__(self, format: ActivationFormat) -> None:
        super().__init__()
        self.format, self.idle = format, False
        if format.learned:
            self.log_step = torch.nn.Parameter(torch.zeros(1))
        else:
            self.register_buffer("log_step", torch.zeros(1))
        self.register_buffer("zero", torch.zeros(1))

    def set_range(self, low: float, high: float) -> None:
        """Sets step and zero point, so that the integers reach from one number to the other."""
        least, most = self.format.range
        if self.format.symmetric:
            step, zero = max(abs(low), abs(high)) / most, 0
        else:
            low, high = min(low, 0.0), max(high, 0.0)
            step = (high - low) / most
            zero = round(-low / step) if step else 0
        with torch.no_grad():
            self.log_step.fill_(max(step, 1e-8)).log_()
            self.zero.fill_(min(max(zero, least), most))

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """``[…]`` → the same, rounded, fp32; as it is while the quantizer is ``idle``."""
        if self.idle:
            return values
        with torch.autocast(values.device.type, enabled=False):
            return rounded(values.float(), self.log_step.exp(), self.zero, *self.format.range)


class QuantizedLinear(torch.nn.Linear):  # type: ignore[misc]
    """``y = Q_w(W) Q_x(x) + b``."""

    weights: WeightQuantizer
    reads: ActivationQuantizer | None

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """``[…, in]`` → ``[…, out]``."""
        read = self.reads(input) if self.reads is not None else input
        return torch.nn.functional.linear(read, self.weights(self.weight), self.bias)


class QuantizedEmbedding(torch.nn.Embedding):  # type: ignore[misc]
    """``y = Q_w(W)[i]``."""

    weights: WeightQuantizer

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """``[…]`` int64 → ``[…, width]``."""
        if self.weights.format.channels:
            # A row's step is its own, so that only the rows that are looked up need be rounded.
            rows = input.flatten()
            found = torch.nn.functional.embedding(rows, self.weight, self.padding_idx)
            return self.weights(found, rows).view(*input.shape, -1)
        return torch.nn.functional.embedding(input, self.weights(self.weight), self.padding_idx)


class _Rounded(torch.autograd.Function):  # type: ignore[misc]
    """``s · (clamp(round(x / s) + z) − z)``, LSQ's gradient to s, and to x where nothing is cut off."""

    @staticmethod
    def forward(context: Any, values: Any, step: Any, zero: Any, least: int, most: int) -> Any:
        scaled = values / step
        whole = (scaled.round() + zero).clamp_(least, most) - zero
        inside = (scaled >= least - zero) & (scaled <= most - zero)
        context.save_for_backward(scaled, whole, inside)
        context.step_shape = step.shape
        return whole * step

    @staticmethod
    def backward(context: Any, gradient: Any) -> Any:
        scaled, whole, inside = context.saved_tensors
        to_step = None
        if context.needs_input_grad[1]:
            slope = (whole - scaled * inside) * gradient
            to_step = slope.sum_to_size(context.step_shape) if len(context.step_shape) > 1 else slope.sum().view(1)
        return gradient * inside, to_step, None, None, None


def rounded(values: torch.Tensor, step: torch.Tensor, zero: torch.Tensor, least: int, most: int) -> torch.Tensor:
    """Numbers rounded to multiples of a step, with gradients to both.

    Args:
        values: ``[…]``, fp32.
        step: ``[1]``, or ``[rows, 1]`` of a matrix.
        zero: Zero point, of the step's shape; it is not trained.
        least: Least integer.
        most: Largest integer.
    """
    found: torch.Tensor = _Rounded.apply(values, step, zero, least, most)
    return found


def quantize(
    model: Any, weights: dict[str, WeightFormat], reads: dict[str, ActivationFormat], shared: dict[str, str],
    tables: dict[str, torch.Tensor] | None = None,
) -> None:  # fmt: skip
    """Puts quantized layers in the places of plain ones; steps of activations are then to be set.

    Args:
        model: A sequence classifier.
        weights: How, by the name of a linear layer or a table of embeddings.
        reads: How what it reads is quantized, by the name of a linear layer; what is not named reads floats.
        shared: Layers that read through the quantizer of another one, because both read one tensor.
        tables: Levels, by name, where they are no uniform ones.
    """
    for name, form in weights.items():
        module = model.get_submodule(name)
        table = (tables or {}).get(name)
        # The class changes and the parameters stay, wherever else they are known.
        module.__class__ = QuantizedLinear if isinstance(module, torch.nn.Linear) else QuantizedEmbedding
        module.weights = WeightQuantizer(form, module.weight.shape[0], table)
        if isinstance(module, torch.nn.Linear):
            module.reads = ActivationQuantizer(reads[name]) if name in reads else None
    for name, owner in shared.items():
        # Not registered as a part of it: in the file it stands with its owner, once.
        object.__setattr__(model.get_submodule(name), "reads", model.get_submodule(owner).reads)
    said = {
        name: {
            "weights": asdict(form),
            **({"reads": asdict(reads[name])} if name in reads else {}),
            **({"shared": shared[name]} if name in shared else {}),
        }
        for name, form in weights.items()
    }
    setattr(model.config, QUANTIZERS, said)


def restore(model: Any, said: Any, where: str) -> None:
    """Quantizes a model as the config of its checkpoint says; its weights and steps are then to be loaded.

    Args:
        model: A model of the checkpoint's shapes.
        said: What :func:`quantize` has written to the config.
        where: The checkpoint, for messages.

    Raises:
        ModelError: It names what is not there.
    """
    try:
        weights = {name: WeightFormat(**entry["weights"]) for name, entry in said.items()}
        reads = {name: ActivationFormat(**entry["reads"]) for name, entry in said.items() if "reads" in entry}
        shared = {name: str(entry["shared"]) for name, entry in said.items() if "shared" in entry}
        quantize(model, weights, reads, shared)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ModelError(
            f"{where}: config.json says of its quantizers, under {QUANTIZERS}, what does not fit the model: {error}",
            "config.json and model.safetensors are of two models, or it was edited: make the checkpoint again",
        ) from error


def layers(model: Any) -> dict[str, Any]:
    """The quantized layers of a model, by name."""
    kinds = (QuantizedLinear, QuantizedEmbedding)
    return {name: module for name, module in model.named_modules() if isinstance(module, kinds)}
