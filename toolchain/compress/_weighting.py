"""What the matrices of an encoder are used for: their inputs, their gradients, and the tokens of a table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolchain.core.errors import require
from toolchain.core.log import progress
from toolchain.core.stage import Context
from toolchain.model import checkpoint
from toolchain.model.labels import match_labels
from toolchain.model.train import Encoded, collate, cross_entropy, encode

#: Sentences that run through the model together.
ROWS = 16


@dataclass(frozen=True)
class Activations:
    """What goes through a linear layer ``W [out, in]``; for one that runs several times, in all runs.

    Attributes:
        gram: For ``out > in`` ``XᵀX [in, in]`` of the inputs; otherwise ``YᵀY [out, out]`` of ``Y = X Wᵀ``, without the
            bias. Where the layer has a bias, which can make good for the mean, these are of X less its mean.
        mean: Mean input, ``[in]``; None where the layer has no bias.
    """

    gram: Any
    mean: Any


def activations(model: Any, modules: Mapping[str, str], data: Encoded) -> dict[str, Activations]:
    """Gathers what goes through linear layers.

    Args:
        model: A classifier.
        modules: Names of modules, by the name of the matrix.
        data: Examples, best of like length side by side; their padding does not count.

    Returns:
        Of each layer, by the name of the matrix.
    """
    torch = require("torch", "torch")
    sums: dict[str, list[Any]] = {}  # of the squares, of what is squared, of the inputs; and how many
    real: Any = None  # positions of the batch that are no padding

    def gather(name: str) -> Callable[[Any, Any, Any], None]:
        def hook(module: Any, inputs: tuple[Any, ...], output: Any) -> None:
            read = inputs[0][real]
            values = read
            if module.out_features <= module.in_features:
                values = output[real] if module.bias is None else output[real] - module.bias
            new = [(values.T @ values).double(), values.double().sum(0), read.double().sum(0), len(values)]
            sums[name] = [old + one for old, one in zip(sums[name], new, strict=True)] if name in sums else new

        return hook

    handles = [model.get_submodule(module).register_forward_hook(gather(name)) for name, module in modules.items()]
    try:
        with torch.inference_mode(), progress("calibration", len(data.labels)) as bar:
            for start in range(0, len(data.labels), ROWS):
                indices = range(start, min(start + ROWS, len(data.labels)))
                batch = collate(data, indices, "cpu")
                batch.pop("labels")
                real = batch["attention_mask"].bool()
                model(**batch)
                bar.advance(len(indices))
    finally:
        for handle in handles:
            handle.remove()
    return {name: _activations(model.get_submodule(module), *sums[name]) for name, module in modules.items()}


def _activations(module: Any, squares: Any, summed: Any, read: Any, count: int) -> Activations:
    if module.bias is None:
        return Activations(squares, None)
    return Activations(squares - summed[:, None] * summed / count, read / count)


def fisher(model: Any, modules: Mapping[str, str], data: Encoded, source: Path, context: Context) -> dict[str, Any]:
    """The empirical Fisher information of each output of linear layers: its row's squared gradients, summed, ``[out]``.

    Args:
        model: A classifier, in evaluation mode.
        modules: Names of modules, by the name of the matrix.
        data: Examples with the task's labels; each has a gradient of its own.
        source: The model's folder, for its labels.
        context: The task's labels.
    """
    torch = require("torch", "torch")
    names = tuple(checkpoint.read_json(source / "interface.json")["labels"])
    index, _ = match_labels(names, context.dataset().labels, source)
    weights = {name: model.get_submodule(module).weight for name, module in modules.items()}
    found = {name: torch.zeros(len(weight), dtype=torch.float64) for name, weight in weights.items()}
    with progress("calibration", len(data.labels)) as bar:
        for position in range(len(data.labels)):
            batch = collate(data, [position], "cpu")
            batch["labels"] = torch.tensor([index[data.labels[position]]])
            gradients = torch.autograd.grad(cross_entropy(model, batch), list(weights.values()))
            for name, gradient in zip(weights, gradients, strict=True):
                found[name] += gradient.square().sum(dim=1).double() / len(data.labels)
            bar.advance()
    return found


def counts(tokenizer: Any, tokens: int, max_length: int, context: Context) -> Any:
    """How often each token stands in the training sentences, and once more: one that does not may stand in others."""
    torch = require("torch", "torch")
    data = encode(tokenizer, context.dataset().train, max_length, ("input_ids",))
    ids = torch.tensor([token for row in data.inputs for token in row["input_ids"]])
    return 1.0 + torch.bincount(ids, minlength=tokens).double()
