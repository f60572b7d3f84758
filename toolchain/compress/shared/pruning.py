"""What the pruning techniques share: their settings, and the way from a dense checkpoint to a smaller one.

Layers and hidden width leave first, because no mask stands for their absence. Weights, heads and neurons are masked:
at once, or along the cubic schedule ``s(t) = s·(1 − (1 − t/ramp)³)`` of Zhu and Gupta, arXiv 1710.01878, while the rest
is trained; the mask is put back after every step, so that training which goes on afterwards is locked to it. At the
end, masked heads and neurons are cut out; without a ramp they are cut out before training, which is then as fast as the
smaller model.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from toolchain.compress.shared import gradients
from toolchain.compress.shared.criteria import GRADIENT, Criterion
from toolchain.compress.shared.recovery import Teacher, recover
from toolchain.compress.shared.targets import Target, Units, choose, reader, two_of_four, unit_targets, weight_targets
from toolchain.core.errors import ModelError, RecipeError, require
from toolchain.core.stage import Context, Ge, Gt, Lt, Metrics, StageConfig
from toolchain.model import checkpoint, surgery
from toolchain.model.anatomy import anatomy, heads, hidden, layers_of, neurons
from toolchain.model.source import Shape
from toolchain.model.train import Hooks, TrainConfig

#: While the sparsity rises, the mask is chosen anew after this many steps: ranking every weight takes a while.
CHOOSE_EVERY = 16

#: What importance gathered in training keeps of itself at every step.
KEEP = 0.95


@dataclass(frozen=True, kw_only=True)
class Remove(StageConfig):
    """What structured pruning removes physically: a part of all, or one part for each physical layer.

    Attributes:
        heads: Part of the attention heads; every layer keeps one.
        ffn: Part of the neurons of the FFNs.
        hidden: Part of the width of the residual stream.
        layers: How many layers, or which ones, from 0.
    """

    heads: Annotated[float, Ge(0), Lt(1)] | tuple[Annotated[float, Ge(0), Lt(1)], ...] = 0.0
    ffn: Annotated[float, Ge(0), Lt(1)] | tuple[Annotated[float, Ge(0), Lt(1)], ...] = 0.0
    hidden: Annotated[float, Ge(0), Lt(1)] = 0.0
    layers: Annotated[int, Ge(0)] | tuple[Annotated[int, Ge(0)], ...] = 0

    def __post_init__(self) -> None:
        if not any((_any(self.heads), _any(self.ffn), self.hidden, self.layers)):
            raise ValueError("remove: nothing is to be removed; give heads, ffn, hidden or layers")


@dataclass(frozen=True, kw_only=True)
class PruneConfig(StageConfig):
    """Settings that all pruning techniques have.

    Attributes:
        sparsity: Part of the encoder's linear weights that becomes zero, one number or one for each physical layer;
            absent: 0.5. Not for 2:4, which is 0.5, nor with remove.
        structure: Single weights, two of every four neighbours, or blocks; absent: single weights. Not with remove.
        block: With structure block: rows and columns of a block; absent: 4 and 4.
        remove: Remove heads, FFN neurons, hidden width and layers physically, in place of setting weights to zero.
        scope: Rank within each matrix, or over all of them.
        multiple_of: With remove: neurons and hidden width are kept in such multiples, which kernels like.
        embeddings: Prune the embedding tables too; not with remove.
        finetune: Train, with these settings, while pruning and after it; absent: prune once and leave it.
        ramp: With finetune: the part of all steps over which the sparsity rises; 0 prunes before training.
        teacher: With finetune: the checkpoint that is pruned teaches the pruned one.
    """

    sparsity: Annotated[float, Gt(0), Lt(1)] | tuple[Annotated[float, Ge(0), Lt(1)], ...] | None = None
    structure: Literal["unstructured", "2:4", "block"] | None = None
    block: tuple[Annotated[int, Ge(1)], ...] | None = None
    remove: Remove | None = None
    scope: Literal["local", "global"] = "global"
    multiple_of: Annotated[int, Ge(1)] = 16
    embeddings: bool = False
    finetune: TrainConfig | None = None
    ramp: Annotated[float, Ge(0), Lt(1)] = 0.6
    teacher: Teacher | None = None

    def __post_init__(self) -> None:
        if self.remove is not None and (self.sparsity is not None or self.structure is not None or self.embeddings):
            raise ValueError("remove takes shapes away, and sparsity, structure and embeddings set zeros: choose one")
        if self.structure == "2:4" and self.sparsity is not None:
            raise ValueError("2:4 has a sparsity of 0.5: leave sparsity out")
        if self.block is not None and len(self.block) != 2:
            raise ValueError(f"block: {list(self.block)} is not rows and columns, such as [4, 4]")
        if self.block is not None and self.structure != "block":
            raise ValueError(f"block: {list(self.block)} goes with structure: block; add that, or leave block out")
        if self.teacher is not None and self.finetune is None:
            raise ValueError("teacher: nobody is taught without finetune; add finetune: {}")

    def ramp_end(self, total: int) -> int:
        """The step at which the whole sparsity is reached; a step of training is left behind it."""
        return min(round(self.ramp * total), total - 1)

    @property
    def part(self) -> float | tuple[float, ...]:
        """Part of the weights that becomes zero."""
        return 0.5 if self.sparsity is None else self.sparsity


def prune(
    source: Path, out: Path, config: PruneConfig, context: Context, criterion: Criterion, samples: int = 0
) -> Metrics:
    """Prunes a checkpoint by a criterion.

    Args:
        source: Checkpoint folder.
        out: Folder to write.
        config: Settings.
        context: Seed, threads, data.
        criterion: What units are worth.
        samples: Training examples to gather gradients on, where the criterion needs them before training.

    Returns:
        What is measured of the result, and what the training loop reports.
    """
    model, tokenizer = checkpoint.load_model(source), checkpoint.load_tokenizer(source)
    before = size(model)
    score = Scores(model, tokenizer, criterion, context, samples)
    remove_first(model, config, score)
    metrics: Metrics = {}
    masks = Masks(model, config, criterion)
    if config.finetune is None or config.ramp == 0 or config.structure == "2:4":
        masks.choose(score.of(masks.targets), 1.0)
        masks.put_on()
        masks.cut()
    if config.finetune is not None:
        hooks = while_training(masks, config)
        metrics = recover(model, tokenizer, source, config.finetune, config.teacher, context, hooks)
        if not masks.kept and config.ramp > 0:
            masks.read()  # resumed when all steps were done
        masks.cut()
    checkpoint.save_like(model, tokenizer, source, out)
    return metrics | measured(model, masks, before)


class Scores:
    """Scores units on a model as it stands, before training."""

    def __init__(self, model: Any, tokenizer: Any, criterion: Criterion, context: Context, samples: int) -> None:
        self.model, self.criterion = model, criterion
        self._tokenizer, self._context, self._samples = tokenizer, context, samples

    def of(self, targets: Sequence[Target]) -> dict[Target, Any]:
        """Scores of the units of each target."""
        if not targets:
            return {}
        if self.criterion in GRADIENT:
            return gradients.gather(self.model, self._tokenizer, targets, self.criterion, self._context, self._samples)
        return {target: self.criterion(target.weight(self.model).detach(), None, target.pool) for target in targets}


def remove_first(model: Any, config: PruneConfig, score: Scores) -> None:
    """Checks what is asked against the model, then removes layers and hidden width.

    Raises:
        RecipeError: The model does not have what is to be removed, or nothing would stay.
    """
    check(model, config)
    remove = config.remove
    if remove is None:
        return
    if remove.layers:
        depth = anatomy(model).depth
        gone = set(remove.layers) if isinstance(remove.layers, tuple) else _least_layers(model, remove.layers, score)
        surgery.keep_layers(model, [index for index in range(depth) if index not in gone])
    if remove.hidden:
        width, step = hidden(model), config.multiple_of
        kept = min(width, max(step, round((1 - remove.hidden) * width / step) * step))
        readers = [name for layer in layers_of(model) for name in (layer.query, layer.key, layer.value, layer.ffn_in)]
        targets = [Target(reader(model, name), "weights", -1, 0, 1) for name in readers]
        total = sum(value.flatten() / value.mean().clamp_min(1e-20) for value in score.of(targets).values())
        torch = require("torch", "torch")
        surgery.keep_hidden(model, torch.topk(total, kept).indices.tolist())


def check(model: Any, config: PruneConfig) -> None:
    """Holds that the model has what is to be removed, and that something stays.

    Raises:
        RecipeError: It has not, or nothing would.
    """
    if config.remove is None and not isinstance(config.sparsity, tuple):
        return  # zeros ask nothing of an architecture
    refusal = fits(config, Shape(anatomy(model).depth, len(layers_of(model))))
    if refusal:
        raise RecipeError(*refusal)


def fits(config: PruneConfig, shape: Shape) -> tuple[str, str] | None:
    """Why a model of this shape cannot be pruned so, and what to do; None where it can."""
    lists = {"sparsity": config.sparsity}
    uneven = [side for side in config.block or () if shape.hidden % side]
    if uneven:
        said = f"block: sides of {' and '.join(map(str, uneven))} do not divide the model's width of {shape.hidden}"
        return said, "choose a block whose sides divide those of every matrix"
    if config.remove is not None:
        lists |= {"remove.heads": config.remove.heads, "remove.ffn": config.remove.ffn}
        layers, depth = config.remove.layers, shape.layers
        unknown = [index for index in layers if index >= depth] if isinstance(layers, tuple) else []
        if unknown:
            return f"remove.layers: there is no layer {unknown[0]}", f"this model's are 0 to {depth - 1}"
        count = len(set(layers)) if isinstance(layers, tuple) else layers
        if count >= depth:
            return f"remove.layers: {count} of {depth} layers cannot leave", f"one must stay: {depth - 1} or fewer"
        if count and any(isinstance(value, tuple) for value in lists.values()):
            return "remove: parts by layer do not go with layers", "remove layers in an item before this one"
    for name, value in lists.items():
        if isinstance(value, tuple) and len(value) != shape.physical:
            count = shape.physical
            return f"{name}: {len(value)} parts, and the model has {count} layers", f"give one number, or {count}"
    return None


def leaves(config: PruneConfig, shape: Shape) -> Shape:
    """The shape of a model after it is pruned."""
    layers = config.remove.layers if config.remove is not None else 0
    gone = len(set(layers)) if isinstance(layers, tuple) else layers
    shared = shape.physical < shape.layers
    hidden = 0 if config.remove is not None and config.remove.hidden else shape.hidden
    physical = shape.physical - (0 if shared else gone)
    trained = shape.trained if config.remove is None else shape.cut
    return dataclasses.replace(shape, layers=shape.layers - gone, physical=physical, hidden=hidden, trained=trained)


class Masks:
    """Which weights, heads and neurons are kept, of a model that is being pruned."""

    def __init__(self, model: Any, config: PruneConfig, criterion: Criterion) -> None:
        self.model, self.config, self.criterion = model, config, criterion
        self.kept: dict[Target, Any] = {}
        remove = config.remove
        if remove is None:
            rows, columns = config.block or (4, 4)
            block = (rows, columns) if config.structure == "block" else (1, 1)
            self.groups = [(weight_targets(model, block, embeddings=config.embeddings), config.part)]
            if config.structure == "2:4":
                weight_targets(model, (1, 4))
        else:
            asked: tuple[tuple[Units, Any], ...] = (("heads", remove.heads), ("ffn", remove.ffn))
            self.groups = [(unit_targets(model, kind), part) for kind, part in asked if _any(part)]

    @property
    def targets(self) -> list[Target]:
        """All matrices that are masked."""
        return [target for targets, _ in self.groups for target in targets]

    def choose(self, scores: Mapping[Target, Any], reached: float) -> None:
        """Chooses what is kept, when this much of the asked sparsity is to be reached."""
        for targets, part in self.groups:
            if not targets:
                continue
            own = {target: scores[target] for target in targets}
            if self.config.structure == "2:4":  # there is no part of it: all, or none before the ramp has ended
                self.kept |= two_of_four(own) if reached >= 1 else {t: s == s for t, s in own.items()}
                continue
            now = tuple(p * reached for p in part) if isinstance(part, tuple) else part * reached
            self.kept |= choose(own, now, self.config.scope, self.criterion, self.config.multiple_of)

    def read(self) -> None:
        """Finds the mask that is on: what is not zero is kept."""
        for target in self.targets:
            self.kept[target] = target.pool((target.weight(self.model).detach() != 0).float()) > 0

    def put_on(self) -> None:
        """Makes what is not kept zero."""
        torch = require("torch", "torch")
        with torch.no_grad():
            for target, kept in self.kept.items():
                weight = target.weight(self.model)
                weight.mul_(target.expand(kept.to(weight.device), weight.shape))

    def cut(self) -> None:
        """Removes masked heads and neurons; single weights and blocks stay where they are, as zeros."""
        layers = layers_of(self.model) if self.config.remove is not None else ()
        for target, kept in list(self.kept.items()):
            if target.kind == "weights":
                continue
            stay = kept.flatten().nonzero().flatten().tolist()
            keep = surgery.keep_heads if target.kind == "heads" else surgery.keep_neurons
            keep(self.model, layers[target.layer], stay)
            del self.kept[target]  # nothing of it is left to be masked


def while_training(masks: Masks, config: PruneConfig) -> Hooks:
    """Hooks that raise the sparsity along the cubic schedule, and then hold the mask.

    A gradient's scores are gathered in training, and saved with its state.
    """
    torch = require("torch", "torch")
    if masks.kept or not masks.targets or config.ramp == 0:
        return Hooks()  # zeros that are there already are kept by whoever trains
    model, criterion = masks.model, masks.criterion
    gathered: dict[str, Any] = {}
    if criterion in GRADIENT:
        for target in masks.targets:
            shape = target.pool(target.weight(model).detach()).shape
            gathered[f"scores/{target.name}"] = torch.nn.Parameter(torch.zeros(shape), requires_grad=False)

    def scores() -> dict[Target, Any]:
        if gathered:
            return {target: gathered[f"scores/{target.name}"].detach() for target in masks.targets}
        return {target: criterion(target.weight(model).detach(), None, target.pool) for target in masks.targets}

    def gather(step: int, total: int) -> None:
        with torch.no_grad():
            for target in masks.targets:
                weight, kept = target.weight(model), gathered[f"scores/{target.name}"]
                kept.data = kept.data.to(weight.device)
                found = criterion(weight, weight.grad, target.pool)
                if bool(torch.isfinite(found).all()):  # a step that overflowed in half precision is not taken either
                    kept.mul_(KEEP).add_(found, alpha=1 - KEEP)

    chosen_at = -1

    def before(step: int, total: int) -> None:
        nonlocal chosen_at
        end = config.ramp_end(total)
        at = end if step >= end else step - step % CHOOSE_EVERY
        if at != chosen_at and step > at and chosen_at < 0:
            masks.read()  # resumed between two choices
        elif at != chosen_at:
            masks.choose(scores(), cubic(at, end))
            masks.put_on()
        chosen_at = at

    return Hooks(
        before_step=before,
        after_backward=gather if gathered else None,
        after_step=lambda step, total: masks.put_on(),
        candidate=lambda step, total: step > config.ramp_end(total),
        extra_parameters=gathered,
    )


def cubic(step: int, end: int) -> float:
    """Part of the final sparsity that the cubic schedule has reached at a step."""
    done = min(1.0, step / end) if end else 1.0
    return float(1 - (1 - done) ** 3)


def size(model: Any) -> dict[str, Any]:
    """Parameters; and, where layers can be cut, heads and neurons of each physical layer, width and depth."""
    found: dict[str, Any] = {"parameters": checkpoint.count_parameters(model)}
    try:
        layers = layers_of(model)
    except ModelError:
        return found
    return found | {
        "heads": [heads(model, layer) for layer in layers],
        "ffn": [neurons(model, layer) for layer in layers],
        "hidden": hidden(model),
        "layers": anatomy(model).depth,
    }


def measured(model: Any, masks: Masks, before: Mapping[str, Any]) -> Metrics:
    """What a pruned model is: shapes where it was cut, zeros where it was masked."""
    after = size(model)
    found = {**after, "before": dict(before)}
    if masks.config.remove is not None:
        return found
    weights = [target.weight(model) for target in masks.targets]
    total, zeros = sum(w.numel() for w in weights), sum(int((w == 0).sum()) for w in weights)
    return found | {"sparsity": zeros / total, "pruned_weights": total, "zeros": zeros}


def _least_layers(model: Any, count: int, score: Scores) -> set[int]:
    """The layers whose two output matrices are worth least together; of a shared one, the last runs."""
    depth = anatomy(model).depth
    if anatomy(model).shared:
        return set(range(depth - count, depth))
    whole = {
        name: Target(reader(model, name), "weights", -1, 0, model.get_submodule(reader(model, name)).in_features)
        for layer in layers_of(model) for name in (layer.output, layer.ffn_out)
    }  # fmt: skip
    values = score.of(list(whole.values()))
    worth = [float(sum(values[whole[n]].sum() for n in (layer.output, layer.ffn_out))) for layer in layers_of(model)]
    return set(sorted(range(depth), key=lambda index: (worth[index], -index))[:count])


def _any(part: float | Sequence[float]) -> bool:
    return any(part) if isinstance(part, Sequence) else part > 0
