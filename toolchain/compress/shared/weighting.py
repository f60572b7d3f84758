"""What the matrices of an encoder are used for: their inputs, their gradients, and the tokens of a table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from toolchain.core.errors import require
from toolchain.core.log import progress
from toolchain.core.stage import Context
from toolchain.model.encoded import Encoded, collate, encode
from toolchain.model.train import loss_of

#: Sentences that run through the model together.
ROWS = 8


@dataclass(frozen=True)
class Activations:
    """What goes through a linear layer ``W [out, in]``; for one that runs several times, in all runs.

    Attributes:
        gram: For ``out > in`` ``XᵀX [in, in]`` of the inputs; otherwise ``YᵀY [out, out]`` of ``Y = X Wᵀ``, without the
            bias. Where the layer has a bias, which can make good for the mean, these are of X less its mean.
        mean: Mean input, ``[in]``; None where the layer has no bias.
        felt: Mean square of the loss's gradient by a number that the layer computes, where it was asked for.
    """

    gram: Any
    mean: Any
    felt: float | None


def activations(
    model: Any, modules: Mapping[str, str], data: Encoded, *, gradients: bool = False
) -> dict[str, Activations]:
    """Gathers what goes through linear layers.

    Args:
        model: A classifier, in evaluation mode.
        modules: Names of modules, by the name of the matrix.
        data: Examples, best of like length side by side; their padding does not count.
        gradients: Gather the loss's gradients too, on the examples' labels.

    Returns:
        Of each layer, by the name of the matrix.
    """
    torch = require("torch", "torch")
    sums: dict[str, list[Any]] = {}  # of the products, of their factors, of the inputs, of gradients squared; how many
    outputs: list[tuple[str, Any]] = []
    real: Any = None  # positions of the batch that are no padding

    def add(name: str, at: int, value: Any) -> None:
        entry = sums.setdefault(name, [0.0] * 5)
        entry[at] = entry[at] + value

    def gather(name: str) -> Callable[[Any, Any, Any], None]:
        def hook(module: Any, inputs: tuple[Any, ...], output: Any) -> None:
            outputs.append((name, output))
            read = inputs[0].detach()[real]
            values = read
            if module.out_features <= module.in_features:
                values = output.detach()[real] - (0.0 if module.bias is None else module.bias.detach())
            new = ((values.T @ values).double(), values.double().sum(0), read.double().sum(0))
            for at, value in enumerate((*new, 0.0, len(values))):
                add(name, at, value)

        return hook

    handles = [model.get_submodule(module).register_forward_hook(gather(name)) for name, module in modules.items()]
    try:
        with torch.set_grad_enabled(gradients), progress("calibration", len(data.labels)) as bar:
            for start in range(0, len(data.labels), ROWS):
                indices = range(start, min(start + ROWS, len(data.labels)))
                batch = collate(data, indices, "cpu")
                real = batch["attention_mask"].bool()
                outputs.clear()
                # Summed over examples, the loss's gradient by what is computed for one of them is its own alone.
                loss = loss_of(data.kind)(model, batch) * len(indices)
                if gradients:
                    found = torch.autograd.grad(loss, [output for _, output in outputs])
                    for (name, _), gradient in zip(outputs, found, strict=True):
                        add(name, 3, float(gradient[real].square().mean(dim=1).sum()))
                bar.advance(len(indices))
    finally:
        for handle in handles:
            handle.remove()
    made = {}
    for name, (squares, summed, read, felt, count) in sums.items():
        mean = None if model.get_submodule(modules[name]).bias is None else read / count
        gram = squares if mean is None else squares - summed[:, None] * summed / count
        made[name] = Activations(gram, mean, felt / count if gradients else None)
    return made


def fisher(model: Any, modules: Mapping[str, str], data: Encoded) -> dict[str, Any]:
    """The empirical Fisher information of each output of linear layers: its row's squared gradients, summed, ``[out]``.

    Args:
        model: A classifier, in evaluation mode.
        modules: Names of modules, by the name of the matrix.
        data: Examples; each has a gradient of its own.
    """
    torch = require("torch", "torch")
    weights = {name: model.get_submodule(module).weight for name, module in modules.items()}
    found = {name: torch.zeros(len(weight), dtype=torch.float64) for name, weight in weights.items()}
    with progress("calibration", len(data.labels)) as bar:
        for position in range(len(data.labels)):
            loss = loss_of(data.kind)(model, collate(data, [position], "cpu"))
            gradients = torch.autograd.grad(loss, list(weights.values()))
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
