"""Embeddings: a text has a vector, and texts are alike as far as the cosine of their vectors is large.

An example is one text. Data are pairs of texts with a score, of which each gives two examples that hang together
(``arranged``): the gold answer of a text is the number of its pair and the pair's score. Models are judged by
Spearman's rank correlation of cosines with scores, as on the STS benchmark (Cer et al., SemEval 2017).

Pooling and normalization are a part of the graph. They are those of the checkpoint's ``modules.json``
(sentence-transformers; Reimers and Gurevych, EMNLP 2019), and stand in ``config.json`` from then on.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from toolchain.certainty.bootstrap import whole
from toolchain.certainty.correlation import spearman
from toolchain.core import documents
from toolchain.core.data import Split
from toolchain.core.errors import ModelError, require
from toolchain.core.files import check_file
from toolchain.kinds import regression
from toolchain.kinds.contract import Agreement, FromFolder, Metric, Output
from toolchain.kinds.shared.prediction import Prediction

if TYPE_CHECKING:
    from numpy.typing import NDArray

HEAD = ""
HEADS = ("embeddings",)
OUTPUTS = (Output("embedding", ("batch", "width")),)
METRIC = Metric("Spearman correlation")
NAMES = ("embedding",)
WORDS = ("embedding", "embeddings")
TEXTS = 2

_UNTAUGHT = "it learns from labels, and pairs of texts are not learned from here"
REFUSED = {
    "finetune": f"{_UNTAUGHT}; train the model with sentence-transformers and give its folder",
    "cls_only": "its last layer computes the first token alone, and a pooling may read all of them",
    "with_tokenizer": "its graph takes texts, and the length at which they are cut is not that of the tokenizer",
    "sensitivity": _UNTAUGHT,
} | regression.REFUSED | {
    name: _UNTAUGHT
    for name in ("distill", "dynabert", "gradient_prune", "latency_prune", "learned_qat", "logarithmic_qat",
                 "movement_prune", "subnetwork", "uniform_qat")
}  # fmt: skip

#: A text's embedding differs where 1 - cosine is above this.
_TOLERANCE = 0.01

#: The same for the distance of unit vectors: ``|a - b|² = 2·(1 - cosine)``.
_DISTANCE = math.sqrt(2 * _TOLERANCE)

#: Where ``config.json`` says how the vectors of tokens become one.
_KEY = "toolchain_pooling"

#: Names of sentence-transformers' settings, and of the pooling that each turns on.
_MODES = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}


def read_gold(value: Any) -> float:
    """Return the score of a pair as a data file has it.

    Raises:
        ValueError: It is not a finite number.
    """
    return regression.read_gold(value)


def arranged(rows: Split) -> Split:
    """Return the texts of pairs, each an example of its own; those of a pair hang together."""
    texts = [(text,) for pair in rows.texts for text in pair]
    gold = [(number, float(score)) for number, score in enumerate(rows.labels) for _ in range(TEXTS)]
    return replace(rows, texts=texts, labels=gold, groups=[number for number, _ in gold])


def targets(gold: Sequence[Any], rows: Sequence[Any], width: int, padding_side: str) -> list[float]:
    """Return the score of each text's pair."""
    return [score for _, score in gold]


def from_folder(folder: Path) -> FromFolder:
    """Return the pooling of a checkpoint, its longest input, and what is worth noting.

    Raises:
        ModelError: Its ``modules.json`` names a module, a pooling or a prompt that is not served, or is damaged.
    """
    path = folder / "modules.json"
    if not path.is_file():
        note = f"{folder.name} has no modules.json: its tokens' vectors are averaged, and not normalized"
        return FromFolder({_KEY: {"mode": "mean", "normalize": False}}, notes=(note,))
    modules = documents.read_json(path, ModelError)
    if not isinstance(modules, list) or not all(isinstance(each, dict) for each in modules):
        raise ModelError(f"{path} holds no list of modules", "copy or download it again")
    names = [str(each.get("type", "")).rpartition(".")[2] for each in modules]
    if names not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]):
        raise ModelError(
            f"{path} has the modules {', '.join(names)}; served are Transformer, Pooling and Normalize, in this order",
            "save the model without the others, if its embeddings can do without",
        )
    where = check_file(folder, f"{modules[1].get('path', '')}/config.json")
    mode = _mode(documents.read_object(where, ModelError), where)
    longest, notes = _longest(folder), _prompts(folder)
    return FromFolder({_KEY: {"mode": mode, "normalize": len(names) == 3}}, longest, notes)


def forward(model: Any, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the embedding of each text, ``[batch, width]``: pooled, and normalized where the model says so.

    Raises:
        ModelError: ``config.json`` does not say how to pool.
    """
    pooling = getattr(model.config, _KEY, None)
    if not isinstance(pooling, Mapping) or pooling.get("mode") not in _MODES.values():
        raise ModelError(f"config.json: {_KEY} is {pooling!r}; allowed modes are {', '.join(_MODES.values())}")
    vectors = model(**inputs).last_hidden_state
    pooled = _pool(vectors, inputs["attention_mask"], str(pooling["mode"]))
    if pooling.get("normalize"):
        pooled = pooled / pooled.norm(dim=1, keepdim=True).clamp(min=1e-12)
    return {"embedding": pooled}


def decode(answers: NDArray[Any], labels: Sequence[str], texts: Sequence[tuple[str, ...]] = ()) -> list[Prediction]:
    """Return the embedding of each text."""
    return [Prediction(NAMES[0], 1.0, embedding=tuple(row.tolist())) for row in answers]


def loss(outputs: Mapping[str, Any], batch: Mapping[str, Any], reduction: str = "mean") -> Any:
    """Refuse to learn from pairs.

    Raises:
        ModelError: Always.
    """
    raise ModelError("pairs of texts are not learned from here", REFUSED["finetune"])


def soft_loss(outputs: Mapping[str, Any], teacher: Any, batch: Mapping[str, Any], temperature: float) -> Any:
    """Return 1 - cosine to the teacher's embeddings, the mean; they have no temperature."""
    functional = require("torch.nn.functional", "torch")
    return (1 - functional.cosine_similarity(outputs["embedding"], teacher, dim=1)).mean()


def divergence(expected: NDArray[np.float64], found: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return 1 - cosine of each text's embeddings."""
    return 1 - _cosines(expected, found)


def score(answers: NDArray[Any], gold: Any) -> NDArray[np.float64]:
    """Return a pair's cosine, its score and 1 where its first text stands, and zeros elsewhere, ``[texts, 3]``.

    A text whose partner is not there has zeros too.
    """
    scores, first = np.zeros((len(gold), 3)), dict[int, int]()
    ends = list[tuple[int, int]]()
    for place, (pair, _) in enumerate(gold):
        if (before := first.setdefault(pair, place)) != place:
            ends.append((before, place))
    if ends:
        one, other = np.array(ends).T
        scores[one, 0] = _cosines(answers[one], answers[other])
        scores[one, 1] = [gold[place][1] for place in one]
        scores[one, 2] = 1
    return scores


def combine(scores: NDArray[np.float64]) -> float:
    """Return the rank correlation of cosines and scores, -1 to 1."""
    return whole(resampled, scores)


def resampled(scores: NDArray[np.float64], counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the rank correlation of each resample."""
    pairs = scores[:, 2] > 0
    return spearman(scores[pairs, :2], counts[:, pairs]) if pairs.any() else np.zeros(len(counts))


def agree(expected: NDArray[Any], found: NDArray[Any], decided: float = 0.0) -> Agreement:
    """Compare embeddings: those of a text differ where 1 - cosine is above ``_TOLERANCE``."""
    apart = np.sqrt(np.maximum(2 * (1 - _cosines(expected, found)), 0))
    return Agreement(differs=~(apart <= _DISTANCE), undecided=np.zeros(len(apart), dtype=bool), distance=apart)


def margin(answers: NDArray[Any]) -> NDArray[Any]:
    """Return how far each embedding may move before it differs, which is the same for all."""
    return np.full(len(answers), _DISTANCE)


def _cosines(one: NDArray[Any], other: NDArray[Any]) -> NDArray[np.float64]:
    first, second = one.astype(np.float64), other.astype(np.float64)
    norms = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    cosines: NDArray[np.float64] = (first * second).sum(axis=1) / np.maximum(norms, np.finfo(np.float64).tiny)
    return cosines


def _pool(vectors: Any, mask: Any, mode: str) -> Any:
    """Return one vector of the tokens' ``[batch, tokens, width]`` that are there, as sentence-transformers does."""
    if mode == "cls":
        return vectors[:, 0]
    torch = require("torch", "torch")
    there = mask.unsqueeze(-1).to(vectors.dtype)
    if mode == "max":
        return (vectors * there + (there - 1) * 1e9).max(dim=1).values
    places = mask.cumsum(dim=1) * mask
    if mode == "lasttoken":
        last = (places == places.max(dim=1, keepdim=True).values).to(vectors.dtype) * mask.to(vectors.dtype)
        return (vectors * last.unsqueeze(-1)).sum(dim=1)
    weights = places.unsqueeze(-1).to(vectors.dtype) if mode == "weightedmean" else there
    total = weights.sum(dim=1).clamp(min=1e-9)
    return (vectors * weights).sum(dim=1) / (torch.sqrt(total) if mode == "mean_sqrt_len_tokens" else total)


def _mode(config: Mapping[str, Any], path: Path) -> str:
    named = config.get("pooling_mode")
    modes = [named] if isinstance(named, str) else named if isinstance(named, list) else []
    modes = modes or [mode for setting, mode in _MODES.items() if config.get(setting)]
    if len(modes) != 1 or modes[0] not in _MODES.values():
        raise ModelError(
            f"{path}: the pooling is {', '.join(map(str, modes)) or 'not said'}; served is one of "
            f"{', '.join(_MODES.values())}"
        )
    return str(modes[0])


def _longest(folder: Path) -> int | None:
    """Return after how many tokens sentence-transformers cuts a text; None where it does not say."""
    path = folder / "sentence_bert_config.json"
    longest = documents.read_object(path, ModelError).get("max_seq_length") if path.is_file() else None
    return longest if isinstance(longest, int) and longest > 0 else None


def _prompts(folder: Path) -> tuple[str, ...]:
    """Return a note on prompts that are put in front of texts.

    Raises:
        ModelError: One is put in front of every text.
    """
    path = folder / "config_sentence_transformers.json"
    config = documents.read_object(path, ModelError) if path.is_file() else {}
    prompts = config.get("prompts")
    known = {str(name): str(text) for name, text in prompts.items() if text} if isinstance(prompts, Mapping) else {}
    default = config.get("default_prompt_name")
    if default in known:
        raise ModelError(
            f"{path}: the prompt {known[default]!r} stands in front of every text, which is not served",
            "set default_prompt_name to null, and put the prompt in front of your texts yourself",
        )
    shown = ", ".join(f"{name} ({text!r})" for name, text in known.items())
    return (f"the model knows prompts, to be put in front of texts by whoever asks: {shown}",) if known else ()
