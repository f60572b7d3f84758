"""Low-rank approximation: linear layers, and the token embedding, become products of two thin matrices.

``W [out, in] ≈ U [out, r] · V [r, in]`` has ``r (out + in)`` parameters and as many multiplications for each token.

- ``plain``: U and V are nearest to W, ``min ‖W − U V‖_F``: truncated SVD (Eckart and Young, 1936).
- ``activation``: what the layer computes is nearest, ``min ‖X (W − U V)ᵀ‖_F``, with its inputs X on training sentences:
  DRONE (Chen et al., NeurIPS 2021); ASVD, arXiv 2312.05821, and SVD-LLM, arXiv 2403.07378, do alike. X is less its mean
  μ, for which the bias makes good, ``b + (W − U V) μ``, as in atomic feature mimicking (Yu and Wu, AAAI 2023).
- ``fisher``: ``min ‖D (W − U V)‖_F``, where D² is each row's empirical Fisher information, the sum of its squared
  gradients: FWSVD (Hsu et al., arXiv 2207.00112).

The embedding's rows are weighted by how often their tokens stand in the training sentences; its factors are ALBERT's
(arXiv 1909.11942). A layer that ALBERT shares is factorized once.

``parameters`` are shared out among the matrices step by step, to where one keeps the most. ``plain`` counts the part of
its energy Σ σ² that each matrix keeps. The others count what the loss feels, ``(∂L/∂y · δy)²`` as in Molchanov et al.,
arXiv 1906.10771: the energy lost times the mean squared gradient of what the layer computes, or of the row's weights.
"""

from __future__ import annotations

import dataclasses
import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, Literal

from toolchain.compress.shared import svd, weighting
from toolchain.compress.shared.gradients import sample
from toolchain.compress.shared.matrices import EMBEDDING, Matrix, check_smaller, given_ranks, matrices, put_in
from toolchain.compress.shared.recovery import Teacher, recover
from toolchain.compress.shared.speedup_search import find_share
from toolchain.compress.shared.stopwatch import stopwatch
from toolchain.core import registry
from toolchain.core.errors import RecipeError, require
from toolchain.core.log import logger, progress
from toolchain.core.stage import Context, Ge, Gt, Le, Lt, Metrics, StageConfig
from toolchain.engines.shared import timed_on
from toolchain.model import checkpoint, zeros
from toolchain.model.source import Shape
from toolchain.model.train import TrainConfig

VERSION = 1
LIBRARIES = ("torch", "transformers", "tokenizers", "accelerate")
METHOD = "factorized"


#: Times that an engine goes through the texts in a trial.
_ROUNDS = 9


@dataclass(frozen=True, kw_only=True)
class Config(StageConfig):
    """Settings of low-rank approximation. Ranks are given in one way: rank, ranks, energy, parameters or speedup.

    Attributes:
        method: What the factors are nearest to: the weights, what layers compute on training sentences, or the weights
            where the loss feels it.
        rank: One rank for every matrix.
        ranks: A rank for each matrix that is to be factorized, by name, such as 0.query or 5.ffn_out, or by shell
            pattern, such as *.ffn_in; a name goes before a pattern. The token embedding is embedding.
        energy: Part of each matrix's energy (squared singular values, weighted) that its rank keeps at least.
        parameters: Part of the parameters of the layers' matrices that remains; absent: 0.5, or another way.
        speedup: How many times as fast the whole model is to be, measured on ONNX Runtime in fp32, to within 5 %.
        layers: Which matrices of each layer.
        embedding: Rank of the token embedding; absent: it stays whole.
        multiple_of: Ranks are multiples of it, which kernels like; given ones are rounded to the nearest.
        calibration_samples: Training sentences that activations or gradients are gathered on.
        batch_size: With speedup: sentences at a time; 1 is latency.
        finetune: Train the factors, with these settings; absent: leave them.
        teacher: With finetune: the checkpoint that is factorized teaches the factors.
    """

    method: Literal["plain", "activation", "fisher"] = "activation"
    rank: Annotated[int, Ge(1), Le(65_536)] | None = None
    ranks: dict[str, Annotated[int, Ge(1), Le(65_536)]] | None = None
    energy: Annotated[float, Gt(0), Lt(1)] | None = None
    parameters: Annotated[float, Gt(0), Lt(1)] | None = None
    speedup: Annotated[float, Gt(1), Le(100)] | None = None
    layers: tuple[Literal["query", "key", "value", "output", "ffn_in", "ffn_out"], ...] = (
        "query", "key", "value", "output", "ffn_in", "ffn_out",
    )  # fmt: skip
    embedding: Annotated[int, Ge(1), Le(65_536)] | None = None
    multiple_of: Annotated[int, Ge(1), Le(1024)] = 16
    calibration_samples: Annotated[int, Ge(1), Le(100_000)] = 256
    batch_size: Annotated[int, Ge(1), Le(1024)] = 1
    finetune: TrainConfig | None = None
    teacher: Teacher | None = None

    @property
    def share(self) -> float:
        """Part of the parameters that remains, where no other way is given."""
        return 0.5 if self.parameters is None else self.parameters

    def __post_init__(self) -> None:
        """Checks what ranges cannot say."""
        ways = ("rank", "ranks", "energy", "parameters", "speedup")
        given = [name for name in ways if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)}: ranks are given in one way; leave one of them")
        if self.ranks is not None and not self.ranks:
            raise ValueError("ranks: it is empty; name a matrix, such as 0.query or '*.ffn_in'")
        if self.embedding is not None and EMBEDDING in (self.ranks or {}):
            raise ValueError("embedding: its rank stands in ranks too; leave one of them")
        if not self.layers and (given or self.embedding is None):
            raise ValueError("layers: it is empty; that is for embedding alone")
        if self.teacher is not None and self.finetune is None:
            raise ValueError("teacher: nobody is taught without finetune; add finetune: {}")


def requires(history: Sequence[str]) -> str | None:
    """Why it cannot stand after these techniques, or None."""
    return "it stands there already" if "low_rank" in history else None


def tunes(config: Config) -> bool:
    """Whether times, which are those of a number of threads, decide the ranks."""
    return config.speedup is not None


def fingerprint(config: Config) -> dict[str, Any]:
    """What measured times depend on."""
    return timed_on.fingerprint(registry.DEFAULT_ENGINE) if tunes(config) else {}


def fits(config: Config, shape: Shape) -> tuple[str, str] | None:
    """Why a model of this shape cannot be factorized so, and what to do; None where its shape does not tell."""
    names = [f"{index}.{part}" for index in range(shape.physical) for part in config.layers]
    for pattern in config.ranks or {}:
        if pattern != EMBEDDING and not any(fnmatchcase(name, pattern) for name in names):
            return (
                f"ranks: {pattern!r} fits none of the matrices that layers allows",
                f"there are {', '.join(names)}; a pattern is, for example, '*.ffn_in'",
            )
    given = {"rank": config.rank, "embedding": config.embedding}
    for name, rank in given.items():
        if rank is not None and 0 < shape.hidden <= rank:
            return f"{name}: {rank} is no lower rank than the model's width, {shape.hidden}", "ask for less"
    return None


def leaves(config: Config, shape: Shape) -> Shape:
    """The shape of the model with factors."""
    layers = bool(config.layers) if config.ranks is None else any(name != EMBEDDING for name in config.ranks)
    return dataclasses.replace(shape, factors=shape.factors or layers)


def apply(source: Path, out: Path, config: Config, context: Context) -> Metrics:
    """Factorizes a checkpoint.

    Args:
        source: Checkpoint folder.
        out: Folder to write.
        config: Settings.
        context: Seed, threads, training sentences; with speedup, dev sentences to time and a folder for the journal.

    Returns:
        ``ranks`` by matrix; ``whole``: matrices that stay; ``kept``: the part of the energy that each keeps, with the
        method's weights; ``relative_error``: root of the mean part lost, whole ones included; ``parameters``,
        ``parameters_before``; with speedup, what was measured, and ``trials``; and what the training loop reports.

    Raises:
        RecipeError: A rank or a name does not fit the model, or nothing would get smaller.
        ModelError: The model is factorized already, or the speedup is out of reach.
    """
    require("torch", "torch").set_num_threads(context.threads)
    model, tokenizer = checkpoint.load_model(source), checkpoint.load_tokenizer(source)
    if config.layers:
        zeros.warn_of_loss(model, "low_rank")
    before, named = checkpoint.count_parameters(model), config.ranks or {}
    found = matrices(model, config.layers, embedding=config.embedding is not None or EMBEDDING in named)
    given = given_ranks(found, config.rank, named, config.embedding, config.multiple_of)
    sought = {name: found[name] for name in found if name not in given and not named}
    least = _least_share(sought, config)
    if not sought:
        check_smaller(given, found)

    treated = {name: matrix for name, matrix in found.items() if name in sought or name in given}
    decomposed = _decompose(model, tokenizer, source, treated, config, context)
    choices = {n: svd.choices(matrix.size, config.multiple_of, decomposed[n]) for n, matrix in sought.items()}
    whole = sum(matrix.parameters for matrix in sought.values())

    def shared_out(share: float) -> dict[str, int]:
        return given | svd.share_out(choices, share * whole)

    def write(share: float, folder: Path) -> None:
        result = checkpoint.load_model(source)
        put_in(result, found, decomposed, shared_out(share))
        checkpoint.save_like(result, tokenizer, source, folder)

    metrics: Metrics = {}
    if config.speedup is not None:
        share, trials = _search(config.speedup, least, source, write, config, context)
        ranks, metrics = shared_out(share), {"speedup": trials[share], "trials": _told(trials)}
    elif config.energy is not None:
        ranks = given | {name: svd.enough(item, config.energy) for name, item in choices.items()}
    else:
        ranks = shared_out(config.share)
    check_smaller(ranks, found)
    put_in(model, found, decomposed, ranks)
    if config.finetune is not None:
        metrics |= recover(model, tokenizer, source, config.finetune, config.teacher, context)
    checkpoint.save_like(model, tokenizer, source, out)
    counted = {"parameters": checkpoint.count_parameters(model), "parameters_before": before}
    return metrics | counted | _report(decomposed, ranks)


def _least_share(sought: Mapping[str, Matrix], config: Config) -> float:
    """The least part of the parameters that can remain.

    Raises:
        RecipeError: Less is asked for, or nothing can get smaller.
    """
    if not sought:
        return 1.0
    costs = {name: svd.choices(matrix.size, config.multiple_of).costs for name, matrix in sought.items()}
    least = sum(int(cost[0]) for cost in costs.values()) / sum(int(cost[-1]) for cost in costs.values())
    if config.embedding is None:
        check_smaller({name: len(cost) - 1 for name, cost in costs.items()}, sought)
    if config.energy is None and config.speedup is None and config.share < least:
        raise RecipeError(
            f"parameters: {config.share:g} of them is less than ranks of {config.multiple_of} have, {least:.3g}",
            f"ask for {least:.3g} or more, or lower multiple_of",
        )
    return least


def _decompose(
    model: Any, tokenizer: Any, source: Path, treated: Mapping[str, Matrix], config: Config, context: Context
) -> dict[str, svd.Decomposition]:
    """Weighs and decomposes matrices."""
    modules = {name: matrix.module for name, matrix in treated.items() if name != EMBEDDING}
    seen: dict[str, weighting.Activations] = {}
    rows: dict[str, Any] = {}
    if config.method != "plain" and modules:
        data = sample(model, tokenizer, context, config.calibration_samples)
        if config.method == "activation":
            shared = config.rank is None and not config.ranks and config.energy is None
            seen = weighting.activations(model, modules, data, gradients=shared)
        else:
            rows = weighting.fisher(model, modules, data)
    if config.method != "plain" and EMBEDDING in treated:
        longest = int(checkpoint.read_json(source / "interface.json")["max_length"])
        rows[EMBEDDING] = weighting.counts(tokenizer, treated[EMBEDDING].size[0], longest, context)
    found = {}
    with progress("factors", len(treated)) as bar:
        for name, matrix in treated.items():
            weight = model.get_submodule(matrix.module).weight
            if name in seen:
                found[name] = svd.decompose(weight, **vars(seen.pop(name)))
            else:
                # The mean over a row is what stands for each of its weights.
                felt = 1 / matrix.size[1] if name in rows else None
                found[name] = svd.decompose(weight, rows=rows.get(name), felt=felt)
            bar.advance(note=name)
    return found


def _search(
    wanted: float, least: float, source: Path, write: Callable[[float, Path], None], config: Config, context: Context
) -> tuple[float, dict[float, float]]:
    """The part of the parameters whose measured speedup is near enough, and every speedup measured, by part.

    What was measured is kept in ``Context.work``: training that is resumed has to find the ranks that it began with.
    """
    journal = context.work / "low_rank.json"
    known: dict[float, float] = dict(json.loads(journal.read_text("utf-8"))) if journal.is_file() else {}
    with ExitStack() as stack:
        time: Callable[[Sequence[Path]], list[float]] | None = None

        def measure(share: float) -> float:
            nonlocal time
            if share not in known:
                if time is None:
                    texts = context.dataset().dev.texts
                    watch = stopwatch(source, texts, batch_size=config.batch_size, rounds=_ROUNDS, context=context)
                    time = stack.enter_context(watch)
                with tempfile.TemporaryDirectory(dir=context.work) as folder:
                    write(share, Path(folder))
                    known[share] = round(time([Path(folder)])[0], 4)
                journal.with_suffix(".new").write_text(json.dumps(list(known.items())), "utf-8")
                journal.with_suffix(".new").replace(journal)
                logger.info("    low_rank: × %.2f with %.1f %% of the parameters", known[share], 100 * share)
            return known[share]

        return find_share(measure, least, wanted), known


def _told(trials: Mapping[float, float]) -> list[dict[str, float]]:
    return [{"parameters": share, "speedup": trials[share]} for share in sorted(trials)]


def _report(decomposed: Mapping[str, svd.Decomposition], ranks: Mapping[str, int]) -> Metrics:
    kept = {name: float(decomposed[name].kept[rank - 1]) if rank else 1.0 for name, rank in ranks.items()}
    return {
        "ranks": {name: rank for name, rank in ranks.items() if rank},
        "whole": [name for name, rank in ranks.items() if not rank],
        "kept": {name: round(kept[name], 4) for name, rank in ranks.items() if rank},
        "relative_error": round((sum(1 - part for part in kept.values()) / len(kept)) ** 0.5, 4),
    }
