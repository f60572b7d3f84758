"""The one training loop: fine-tuning, distillation, pruning and quantization in training pass it a loss and hooks.

AdamW (Loshchilov and Hutter, arXiv 1711.05101) with linear warm-up and decay, gradient clipping, mixed precision
where the hardware has it, the best epoch on dev, early stopping. It survives a kill: state is written to
``Context.work`` now and then, and a resumed run ends with the same weights as one that was never stopped, because the
order of the data depends on (seed, epoch) alone and every step seeds its own dropout.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np

from toolchain import kinds
from toolchain.core.errors import ModelError, require
from toolchain.core.interrupt import held_back
from toolchain.core.log import logger, progress
from toolchain.core.stage import Context, Ge, Gt, Le, Lt, StageConfig
from toolchain.kinds.contract import Metric
from toolchain.model.encoded import Encoded, answers, batches, collate, folded, outputs
from toolchain.model.tokens import truncation_note

#: loss(model, batch) → scalar; a batch holds the model's inputs and ``labels``, tensors on the model's device.
Loss = Callable[[Any, dict[str, Any]], Any]

#: State is written at most this often, in seconds, and never takes more than about 1/50 of the time.
CHECKPOINT_EVERY_S = 2.0

#: Where AdamW's step is one kernel: on a CPU core six times as quick as PyTorch's default, which was a quarter of all.
FUSED = ("cuda", "cpu")

#: Families whose attention fills its mask with the least fp32 number, which no half precision holds.
_FP32_ALONE = ("deberta",)


@dataclass(frozen=True, kw_only=True)
class TrainConfig(StageConfig):
    """Settings of the training loop.

    Attributes:
        epochs: Passes over the training examples.
        learning_rate: Peak learning rate of AdamW.
        batch_size: Examples in a step, over all processes.
        warmup: Part of all steps in which the learning rate rises; it falls linearly to 0 in the rest.
        weight_decay: Decoupled decay; biases and layer norms are left out.
        max_grad_norm: Gradients are clipped to this norm.
        max_length: Longest input in tokens; what is longer is cut.
        early_stopping: Stop after this many epochs without a better dev accuracy; 0 never stops.
        precision: ``auto`` is bf16 on a GPU that has it or a CPU with AMX or AVX512-BF16, fp16 on another GPU, fp32 on
            another CPU.
    """

    epochs: Annotated[int, Ge(1), Le(1000)] = 3
    learning_rate: Annotated[float, Gt(0), Le(1)] = 5e-5
    batch_size: Annotated[int, Ge(1), Le(4096)] = 32
    warmup: Annotated[float, Ge(0), Lt(1)] = 0.1
    weight_decay: Annotated[float, Ge(0), Lt(1)] = 0.01
    max_grad_norm: Annotated[float, Gt(0)] = 1.0
    max_length: Annotated[int, Ge(8), Le(4096)] = 128
    early_stopping: Annotated[int, Ge(0)] = 0
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"


@dataclass
class Hooks:
    """What a technique does while the loop runs.

    Attributes:
        before_step: Called with (step, total steps) before each step: a sparsity schedule.
        after_backward: Called with (step, total steps) when gradients are there, clipped: importance that is gathered.
        after_step: Called with (step, total steps) after the optimizer's step: a mask put back on.
        candidate: Called with (step, total steps) after an epoch: whether it may be the best one; the last always may.
        extra_parameters: More parameters to train: scores, projections, step sizes. Saved with the state.
        learning_rates: Peak learning rates of parameters that have one of their own, by name.
    """

    before_step: Callable[[int, int], None] | None = None
    after_backward: Callable[[int, int], None] | None = None
    after_step: Callable[[int, int], None] | None = None
    candidate: Callable[[int, int], bool] | None = None
    extra_parameters: dict[str, Any] = field(default_factory=dict)
    learning_rates: dict[str, float] = field(default_factory=dict)


@dataclass
class _Progress:
    """Where the training stands: what is resumed besides the tensors."""

    step: int = 0
    loss: float = 0.0  # summed over the steps of an epoch that is not judged yet
    best_accuracy: float = -1.0
    best_loss: float = float("inf")
    best_epoch: int = 0
    stopped: bool = False
    precision: str = ""  # "" is what older states have: unknown
    epochs: list[dict[str, float]] = field(default_factory=list)


def loss_of(kind: str) -> Loss:
    """Return the loss of a kind of task against its gold answers."""

    def loss(model: Any, batch: dict[str, Any]) -> Any:
        return kinds.get(kind).loss(outputs(model, batch, kind), batch)

    return loss


def train(
    model: Any,
    data: Encoded,
    dev: Encoded,
    config: TrainConfig,
    context: Context,
    *,
    loss: Loss | None = None,
    hooks: Hooks | None = None,
) -> dict[str, Any]:
    """Trains in place and leaves the weights of the best epoch on dev in the model.

    Args:
        model: A model of the examples' kind, fp32.
        data: Training examples.
        dev: Examples to choose the epoch by.
        config: Settings.
        context: Seed, threads, and the folder whose state is resumed from and written to.
        loss: loss(model, batch) → scalar; that of the examples' kind by default.
        hooks: What a technique adds.

    Returns:
        dev_accuracy, best_epoch, epochs (loss and dev accuracy of each), steps, resumed_at, precision, and notes where
        training texts were cut.

    Raises:
        ModelError: The loss became NaN or infinite.
    """
    torch, accelerate = require("torch", "torch"), require("accelerate", "torch")
    hooks, loss, metric = hooks or Hooks(), loss or loss_of(data.kind), kinds.get(dev.kind).METRIC
    torch.set_num_threads(context.threads)
    # It keeps the first training's precision for the whole process, and refuses another one.
    accelerate.state.AcceleratorState._reset_state()
    precision = _precision(config.precision, str(model.config.model_type))
    accelerator = accelerate.Accelerator(mixed_precision="no" if precision == "fp32" else precision)
    world, rank, device = accelerator.num_processes, accelerator.process_index, accelerator.device
    model.to(device)
    named = dict(model.named_parameters()) | hooks.extra_parameters
    for parameter in named.values():  # a fused step goes through memory in order, and so does the file of the state
        parameter.data = parameter.data.contiguous()
    groups = _groups(named, config, hooks.learning_rates)
    optimizer = torch.optim.AdamW(groups, lr=config.learning_rate, fused=device.type in FUSED)
    per_process = -(-config.batch_size // world)
    lengths = [len(row["input_ids"]) for row in data.inputs]
    per_epoch = -(-len(batches(lengths, per_process, context.seed, 0)) // world)
    total = per_epoch * config.epochs
    warm = max(1, round(total * config.warmup))

    def rate(step: int) -> float:
        return float(min((step + 1) / warm, max(0.0, (total - step) / max(1, total - warm))))

    state = _State(context.work, model, hooks.extra_parameters, optimizer)
    where = state.load(precision) or _Progress(precision=precision)
    resumed_at = where.step
    prepared, stepper = accelerator.prepare(model, optimizer)
    with progress("training", total) as bar:
        bar.advance(where.step)
        try:
            while len(where.epochs) < config.epochs and not where.stopped:
                epoch = len(where.epochs)  # counted when it has been judged, which a resumed run may have to do first
                done = where.step - epoch * per_epoch
                order = batches(lengths, per_process, context.seed, epoch)
                order += order[: per_epoch * world - len(order)]
                model.train()
                for index in range(done, per_epoch):
                    torch.manual_seed((context.seed * 1_000_003 + where.step) * world + rank)
                    for group in optimizer.param_groups:
                        group["lr"] = group["peak"] * rate(where.step)
                    if hooks.before_step:
                        hooks.before_step(where.step, total)
                    with accelerator.autocast():
                        value = loss(prepared, collate(data, order[index * world + rank], device))
                    found = value.item()  # waits for a GPU: once in a step
                    if not math.isfinite(found):
                        raise ModelError(
                            f"the loss became {found} at step {where.step + 1} of {total}",
                            f"lower learning_rate (now {config.learning_rate:g}), or use precision: fp32",
                        )
                    accelerator.backward(value)
                    with held_back():  # weights, optimizer and progress tell of one step, or the state is worth nothing
                        accelerator.clip_grad_norm_(named.values(), config.max_grad_norm)
                        if hooks.after_backward:
                            hooks.after_backward(where.step, total)
                        stepper.step()
                        stepper.zero_grad()
                        where.step += 1
                        where.loss += found
                        if hooks.after_step:
                            hooks.after_step(where.step, total)
                    bar.advance(1, f"loss {where.loss / (index + 1):.3f}")
                    if accelerator.is_main_process:
                        state.save_if_due(where)
                candidate = hooks.candidate is None or hooks.candidate(where.step, total) or where.step == total
                with _own_precision(model):
                    judged = accuracy(model, dev)
                with held_back():
                    _finish_epoch(judged, where.loss / per_epoch, candidate, where, state, config, metric)
                if accelerator.is_main_process:
                    state.save_if_due(where)
        except KeyboardInterrupt:
            if accelerator.is_main_process:
                state.save(where)
            raise
    state.restore_best()
    _unprepare(model)
    model.to("cpu").eval()
    advice = "a larger max_length of the training reads more of them"
    note = truncation_note({"train": (data.cut, len(data.labels))}, config.max_length, advice)
    return {
        "dev_accuracy": where.best_accuracy,
        "best_epoch": where.best_epoch,
        "epochs": where.epochs,
        "steps": where.step,
        "resumed_at": resumed_at,
        "precision": precision,
        **({"notes": [note]} if note else {}),
    }


@contextmanager
def _own_precision(model: Any) -> Iterator[None]:
    """The model computes as it is delivered; once prepared, its forward is one in mixed precision."""
    mixed, own = vars(model).get("forward"), vars(model).get("_original_forward")
    if own is not None:
        model.forward = own
    try:
        yield
    finally:
        if own is not None:
            model.forward = mixed


def _unprepare(model: Any) -> None:
    """Takes mixed precision off a model; accelerate's own way takes the model's decorators off too."""
    own = vars(model).pop("_original_forward", None)
    if own is None:
        return
    del model.forward
    if getattr(own, "__func__", None) is not type(model).forward:
        model.forward = own


def accuracy(model: Any, data: Encoded, batch_size: int = 64) -> tuple[float, float]:
    """The metric and the mean loss of a model on encoded examples."""
    kind, scores, summed = kinds.get(data.kind, data.names), [], 0.0
    for indices, batch, found in answers(model, data, batch_size):
        scores.append(kind.score(folded(data, indices, found), [data.labels[i] for i in indices]))
        summed += float(kind.loss(found, batch, reduction="sum"))
    return kind.combine(np.concatenate(scores)), summed / len(data.labels)


def _finish_epoch(
    judged: tuple[float, float], loss: float, candidate: bool, where: _Progress, state: _State, config: TrainConfig,
    metric: Metric,
) -> None:  # fmt: skip
    """Notes the epoch, keeps it when it is the best on dev, and decides whether to stop."""
    (found, dev_loss), epoch = judged, len(where.epochs)
    where.epochs.append({"loss": round(loss, 6), "dev_accuracy": found, "dev_loss": round(dev_loss, 6)})
    where.loss = 0.0
    logger.info("    epoch %d: loss %.4f, dev %s %s", epoch + 1, loss, metric.name, metric.shown(found))
    if not candidate:
        return
    if (found, -dev_loss) > (where.best_accuracy, -where.best_loss):
        where.best_accuracy, where.best_loss, where.best_epoch = found, dev_loss, epoch + 1
        state.keep_best()
    elif config.early_stopping and epoch + 1 - where.best_epoch >= config.early_stopping:
        where.stopped = True
        logger.info("    no better dev %s for %d epochs: stopping", metric.name, config.early_stopping)


def _groups(named: dict[str, Any], config: TrainConfig, own: dict[str, float]) -> list[dict[str, Any]]:
    """AdamW's groups: matrices decay, vectors and what has a learning rate of its own do not."""
    trained = {name: p for name, p in named.items() if p.requires_grad and name not in own}
    decayed, kept = [p for p in trained.values() if p.ndim >= 2], [p for p in trained.values() if p.ndim < 2]
    groups = [
        {"params": decayed, "weight_decay": config.weight_decay, "peak": config.learning_rate},
        {"params": kept, "weight_decay": 0.0, "peak": config.learning_rate},
    ]
    for peak in sorted(set(own.values())):
        alike = [named[name] for name, rate in own.items() if rate == peak]
        groups.append({"params": alike, "weight_decay": 0.0, "peak": peak})
    return groups


def _precision(asked: str, family: str) -> str:
    import torch

    if family in _FP32_ALONE:
        if asked not in ("auto", "fp32"):
            raise ModelError(f"precision {asked}: {family} computes in fp32 alone", "use precision: auto or fp32")
        return "fp32"
    if asked == "auto":
        if not torch.cuda.is_available():
            # benchmarks/steps.py: with either a step takes little more than half of its time in fp32.
            known = torch.cpu.get_capabilities()
            return "bf16" if known.get("amx_bf16") or known.get("avx512_bf16") else "fp32"
        return "bf16" if torch.cuda.is_bf16_supported() else "fp16"
    if asked == "fp16" and not torch.cuda.is_available():
        raise ModelError("precision fp16 needs a GPU, and PyTorch sees none", "use precision: auto, fp32 or bf16")
    return asked


class _State:
    """Training state on disk: safetensors and JSON, replaced atomically, so that a kill leaves the one before."""

    def __init__(self, folder: Path, model: Any, extra: dict[str, Any], optimizer: Any) -> None:
        self.path = folder / "training.safetensors"
        self.model, self.optimizer = model, optimizer
        self.named = dict(model.named_parameters()) | extra
        self.best: dict[str, Any] = {}
        self.saved_at, self.cost = time.monotonic(), 0.0

    def keep_best(self) -> None:
        self.best = {name: parameter.detach().clone() for name, parameter in self.named.items()}

    def restore_best(self) -> None:
        import torch

        with torch.no_grad():
            for name, value in self.best.items():
                self.named[name].copy_(value)

    def save_if_due(self, where: _Progress) -> None:
        if time.monotonic() - self.saved_at > max(CHECKPOINT_EVERY_S, 50 * self.cost):
            self.save(where)

    def save(self, where: _Progress) -> None:
        from safetensors.torch import save_file

        started = time.monotonic()
        tensors = {f"model/{name}": p.detach().contiguous().clone() for name, p in self.named.items()}
        tensors |= {f"best/{name}": value for name, value in self.best.items()}
        for name, parameter in self.named.items():
            for part, value in self.optimizer.state.get(parameter, {}).items():
                tensors[f"optimizer/{part}/{name}"] = value.detach().clone()
        partial = self.path.with_suffix(".new")
        save_file(tensors, str(partial), metadata={"progress": json.dumps(asdict(where))})
        partial.replace(self.path)
        self.saved_at = time.monotonic()
        self.cost = self.saved_at - started

    def load(self, precision: str) -> _Progress | None:
        """Puts the state on disk back into model and optimizer; None when there is none of this precision."""
        import torch
        from safetensors import SafetensorError, safe_open

        if not self.path.is_file():
            return None
        try:
            with safe_open(str(self.path), framework="pt") as file:
                where = _Progress(**json.loads(file.metadata()["progress"]))
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
            logger.warning("    the training state in %s is damaged (%s): starting over", self.path.parent, error)
            return None
        if where.precision not in ("", precision):
            logger.warning(
                "    the training state in %s was made in %s, and this machine trains in %s: starting over",
                self.path.parent, where.precision, precision,
            )  # fmt: skip
            return None
        with torch.no_grad():
            for name, parameter in self.named.items():
                parameter.copy_(tensors[f"model/{name}"])
                parts = {
                    p: tensors[f"optimizer/{p}/{name}"]
                    for p in ("step", "exp_avg", "exp_avg_sq")
                    if f"optimizer/{p}/{name}" in tensors
                }
                if parts:
                    device = parameter.device
                    self.optimizer.state[parameter] = {p: v if p == "step" else v.to(device) for p, v in parts.items()}
                if f"best/{name}" in tensors:
                    self.best[name] = tensors[f"best/{name}"].to(parameter.device)
        logger.info("    resuming at step %d", where.step)
        return where
