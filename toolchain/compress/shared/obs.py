"""Optimal Brain Surgeon, matrix by matrix: what leaves, and what the rest takes over from it.

With ``H = E[x xᵀ]`` of a matrix's inputs, the squared error of its output after columns S have left, and the others
have been fitted anew, is ``tr(W_S [H⁻¹]_SS⁻¹ W_Sᵀ)``. Layers are treated in the order in which they are computed, each
on what the layers before it, already pruned, give it: Hassibi and Stork 1992; Frantar and Alistarh, arXiv 2208.11580
and 2301.00774; Kurtic et al., arXiv 2302.04089.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolchain.compress.shared import pruning
from toolchain.compress.shared.criteria import taylor
from toolchain.compress.shared.gradients import sample
from toolchain.compress.shared.recovery import recover
from toolchain.compress.shared.targets import Target
from toolchain.core.errors import require
from toolchain.core.log import progress
from toolchain.core.stage import Context, Metrics
from toolchain.model import checkpoint, zeros
from toolchain.model.anatomy import layers_of
from toolchain.model.encoded import Encoded, collate

#: Added to the diagonal of H, by its mean: inputs that are always zero would make it singular.
DAMPING = 0.01

#: Units that leave between two looks at all of them, as a part of all.
AT_ONCE = 1 / 48

#: Columns whose errors are carried over together, of single weights.
STRIP = 128

#: Examples of a batch.
BATCH = 16


@dataclass
class Elimination:
    """The order in which a matrix's units leave, and what each costs.

    Attributes:
        order: Units, first to leave first.
        costs: Squared error of the output after each, by that of leaving out everything; never falls.
    """

    order: list[int]
    costs: list[float]


def surgeon(source: Path, out: Path, config: pruning.PruneConfig, context: Context, samples: int) -> Metrics:
    """Prunes a checkpoint: :func:`toolchain.compress.shared.pruning.prune`, with what stays fitted anew.

    Layers, which no matrix's inputs tell of, leave by the first-order criterion.
    """
    model, tokenizer = checkpoint.load_model(source), checkpoint.load_tokenizer(source)
    before = pruning.size(model)
    zeros.warn_of_loss(model, "obs")
    pruning.remove_first(model, config, pruning.Scores(model, tokenizer, taylor, context, samples))
    masks = pruning.Masks(model, config, taylor)
    data = sample(model, tokenizer, context, samples)
    torch = require("torch", "torch")
    torch.set_num_threads(context.threads)
    groups = _in_order(model, masks.targets)
    shares = {target: share for targets, part in masks.groups for target, share in _shares(targets, part).items()}
    if config.remove is not None and config.scope == "global":
        shares = _spread(model, masks, data)
    with progress("surgeon", len(groups)) as bar:
        for targets in groups:
            hessians = inputs(model, [target.name for target in targets], data)
            for target in targets:
                weight = target.weight(model)
                if target.kind == "weights":
                    kept = sparsify(weight, hessians[target.name], shares[target], config.structure == "2:4")
                else:
                    kept = _eliminated(weight, hessians[target.name], target, shares[target], config.multiple_of)
                masks.kept[target] = kept
            bar.advance()
    masks.put_on()
    masks.cut()
    metrics: Metrics = {}
    if config.finetune is not None:
        hooks = pruning.while_training(masks, config)
        metrics = recover(model, tokenizer, source, config.finetune, config.teacher, context, hooks)
    checkpoint.save_like(model, tokenizer, source, out)
    return metrics | pruning.measured(model, masks, before)


def inputs(model: Any, names: Sequence[str], data: Encoded) -> dict[str, Any]:
    """``E[x xᵀ]`` of linear layers' inputs over all tokens, ``[in, in]`` float64; padding is left out.

    Args:
        model: A sequence classifier.
        names: Linear layers.
        data: Encoded examples.
    """
    torch = require("torch", "torch")
    found: dict[str, Any] = {}
    tokens: dict[str, int] = dict.fromkeys(names, 0)
    real: list[Any] = [None]

    def note(name: str) -> Any:
        def hook(module: Any, given: Any, result: Any) -> None:
            values = given[0].detach()
            values = values[real[0]] if values.ndim == 3 else values.reshape(-1, values.shape[-1])
            values = values.double()
            product = values.T @ values
            found[name] = found[name] + product if name in found else product
            tokens[name] += len(values)

        return hook

    handles = [model.get_submodule(name).register_forward_hook(note(name)) for name in names]
    model.eval()
    try:
        with torch.inference_mode():
            for start in range(0, len(data.labels), BATCH):
                batch = collate(data, range(start, min(start + BATCH, len(data.labels))), "cpu")
                real[0] = batch["attention_mask"].bool()
                batch.pop("labels")
                model(**batch)
    finally:
        for handle in handles:
            handle.remove()
    return {name: value.clone() / tokens[name] for name, value in found.items()}


def eliminate(weight: Any, hessian: Any, width: int, count: int) -> tuple[Elimination, Any]:
    """Takes units out of a matrix, the cheapest first, and fits the rest anew after each.

    Args:
        weight: ``[out, in]``.
        hessian: ``[in, in]``, of its inputs.
        width: Columns of a unit: a head's size, or 1.
        count: How many units leave.

    Returns:
        The order with its costs, and the fitted matrix, whose units that left are zero.
    """
    torch = require("torch", "torch")
    left = _living(weight, hessian)
    fitted, units = torch.zeros_like(left), left.shape[1] // width
    whole = float(((left @ hessian) * left).sum()) or 1.0
    inverse = torch.linalg.inv(_damped(hessian))
    alive = torch.arange(units)
    found, total = Elimination([], []), 0.0
    while len(found.order) < count:
        blocks = inverse.view(len(alive), width, len(alive), width).diagonal(dim1=0, dim2=2).permute(2, 0, 1)
        parts = left.view(-1, len(alive), width).permute(1, 0, 2)
        cost = ((parts @ torch.linalg.inv(blocks)) * parts).sum(dim=(1, 2))
        step = min(count - len(found.order), max(1, round(units * AT_ONCE)))
        order = torch.argsort(cost, stable=True)
        stay = order[step:].sort().values
        gone, rest = _columns(order[:step], width), _columns(stay, width)
        # What leaves together costs more than each alone, where one could have stood in for the other.
        joint = float(((left[:, gone] @ torch.linalg.inv(inverse[gone][:, gone])) * left[:, gone]).sum())
        found.order += alive[order[:step]].tolist()
        found.costs += [(total + joint * (index + 1) / step) / whole for index in range(step)]
        total += joint
        solved = torch.linalg.solve(inverse[gone][:, gone], inverse[gone][:, rest])
        left = left[:, rest] - left[:, gone] @ solved
        inverse = inverse[rest][:, rest] - inverse[rest][:, gone] @ solved
        alive = alive[stay]
    fitted[:, _columns(alive, width)] = left
    return found, fitted


def _columns(units: Any, width: int) -> Any:
    """The columns of these units."""
    torch = require("torch", "torch")
    return (units[:, None] * width + torch.arange(width)).flatten()


def sparsify(weight: Any, hessian: Any, share: float, two_of_four: bool) -> Any:
    """Makes single weights of a matrix zero in place, column by column, and carries each error to the columns behind.

    SparseGPT (arXiv 2301.00774): with the Cholesky factor U of H⁻¹, a weight costs ``w² / U_jj²``.

    Args:
        weight: ``[out, in]``; changed.
        hessian: ``[in, in]``, of its inputs.
        share: Part that becomes zero.
        two_of_four: Two of every four neighbours in a row, in place of a share.

    Returns:
        Which weights are kept, ``[out, in]`` bool.
    """
    torch = require("torch", "torch")
    fitted = _living(weight, hessian)
    kept = torch.ones_like(fitted, dtype=torch.bool)
    upper = torch.linalg.cholesky(torch.linalg.inv(_damped(hessian)), upper=True)
    for start in range(0, fitted.shape[1], STRIP):
        end = min(start + STRIP, fitted.shape[1])
        errors = torch.zeros_like(fitted[:, start:end])
        if not two_of_four:
            cost = fitted[:, start:end] ** 2 / upper.diagonal()[start:end] ** 2
            count = round(share * cost.numel())
            lowest = torch.topk(cost.flatten(), count, largest=False).indices
            kept[:, start:end] = torch.ones(cost.numel(), dtype=torch.bool).index_fill_(0, lowest, False).view_as(cost)
        for column in range(start, end):
            if two_of_four and column % 4 == 0:
                cost = fitted[:, column : column + 4] ** 2 / upper.diagonal()[column : column + 4] ** 2
                best = torch.topk(cost, 2, dim=1).indices
                kept[:, column : column + 4] = torch.zeros_like(cost, dtype=torch.bool).scatter_(1, best, True)
            values = fitted[:, column] * kept[:, column]
            error = (fitted[:, column] - values) / upper[column, column]
            fitted[:, column] = values
            fitted[:, column + 1 : end] -= error[:, None] * upper[column, column + 1 : end]
            errors[:, column - start] = error
        fitted[:, end:] -= errors @ upper[start:end, end:]
    with torch.no_grad():
        weight.copy_(fitted * kept)
    return kept


def _eliminated(weight: Any, hessian: Any, target: Target, share: float, multiple: int) -> Any:
    """Takes a target's units out, and gives which are kept, ``[1, units]`` bool."""
    torch = require("torch", "torch")
    units = weight.shape[1] // target.columns
    step = multiple if target.kind == "ffn" else 1
    stay = min(units, max(step, round((1 - share) * units / step) * step))
    elimination, fitted = eliminate(weight, hessian, target.columns, units - stay)
    with torch.no_grad():
        weight.copy_(fitted)
    kept = torch.ones(1, units, dtype=torch.bool)
    kept[0, elimination.order] = False
    return kept


def _spread(model: Any, masks: pruning.Masks, data: Encoded) -> dict[Target, float]:
    """Part of each target's units that leaves when the cheapest of all layers do."""
    found: dict[Target, float] = {}
    for targets, part in masks.groups:
        if not isinstance(part, float) or not targets:
            found |= _shares(targets, part)
            continue
        hessians = inputs(model, [target.name for target in targets], data)
        units = {target: target.weight(model).shape[1] // target.columns for target in targets}
        least = {target: masks.config.multiple_of if target.kind == "ffn" else 1 for target in targets}
        steps = []
        for target in targets:
            weight, hessian = target.weight(model), hessians[target.name]
            order, _ = eliminate(weight, hessian, target.columns, max(0, units[target] - least[target]))
            steps += [(cost, target) for cost in order.costs]
        steps.sort(key=lambda step: (step[0], step[1].layer))
        leaving = [target for _, target in steps[: round(part * sum(units.values()))]]
        found |= {target: leaving.count(target) / units[target] for target in targets}
    return found


def _shares(targets: Sequence[Target], part: float | Sequence[float]) -> dict[Target, float]:
    if isinstance(part, Sequence):
        return {target: part[target.layer] if target.layer >= 0 else 0.0 for target in targets}
    return dict.fromkeys(targets, part)


def _in_order(model: Any, targets: Sequence[Target]) -> list[list[Target]]:
    """Targets whose inputs do not depend on each other, in the order of computation; those outside of layers last."""
    found: list[list[Target]] = []
    for layer in layers_of(model):
        stages = ((layer.query, layer.key, layer.value), (layer.output,), (layer.ffn_in,), (layer.ffn_out,))
        for names in stages:
            found.append([t for t in targets if any(t.name == n or t.name.startswith(f"{n}.") for n in names)])
    known = {target for group in found for target in group}
    found.append([target for target in targets if target not in known])
    return [group for group in found if group]


def _living(weight: Any, hessian: Any) -> Any:
    """A float64 copy of a matrix, without what it does with inputs that are always zero."""
    return weight.detach().double() * (hessian.diagonal() != 0)


def _damped(hessian: Any) -> Any:
    torch = require("torch", "torch")
    mean = float(hessian.diagonal().mean()) or 1.0
    return hessian + DAMPING * mean * torch.eye(len(hessian), dtype=hessian.dtype)
