"""Token classification: each word of a text has a tag, such as ``B-person``, and tags are read as entities.

The first token of a word answers for it. Words are those of transformers' pipeline with
``aggregation_strategy="first"`` (``model/tokens.py``). An answer has a row for each word: where the word begins and
ends in the text, in characters, and then the logits of its tags. Behind the last word of a text, rows are zeros; every
word has at least one character.

A gold answer is a list of ``(start, end, tag)``, one for each word of the data, whose words may be longer than those
of the model: the word of the model that begins where a word of the data begins answers for it. Where there is none,
such as beyond ``max_length``, the word counts as ``O``.

Models are judged by the F1 of entities, as ``seqeval`` counts them in its default mode, over all examples: an entity is
right if its type, its first and its last word are. Prefixes may be those of IOB1, IOB2, IOE and IOBES, and of BILOU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from toolchain.certainty.bootstrap import whole
from toolchain.certainty.f1 import micro_f1
from toolchain.core.errors import ModelError, require
from toolchain.kinds.contract import Agreement, Metric, Output
from toolchain.kinds.shared.prediction import Entity, Prediction

if TYPE_CHECKING:
    from numpy.typing import NDArray

HEAD = "TokenClassification"
HEADS = ("token classification",)
OUTPUTS = (Output("logits", ("batch", "tokens", "labels")),)
METRIC = Metric("entity F1", unit="%")
ACTIVATION = "Softmax"
LABELS = "word"
TASK = "tagged"
WORDS = ("entity set", "entity sets")
READS_WORDS = True
DEPENDS_ON_LABELS = True
REFUSED = {
    "cls_only": "its last layer computes the first token alone, and every word has a tag of its own",
    "with_tokenizer": "its graph does not say where words begin, which tell the tags of words from those of tokens",
    "sensitivity": "it compares one answer for each text, and a text has as many tags as words",
}

#: Columns of an answer before its logits: where the word begins, and where it ends.
_PLACE = 2

#: What a loss leaves out: tokens that begin no word of the data.
_IGNORED = -100

#: Tags of no entity.
_OUTSIDE = "O"

#: BILOU's names of what IOBES calls the end of an entity, and an entity of one word.
_SAME = {"L": "E", "U": "S"}

#: Prefixes of one tag and the next between which an entity ends, and of those between which one begins.
_ENDS = frozenset({"BB", "BS", "BO", "IB", "IS", "IO"})
_BEGINS = frozenset({"EE", "EI", "SE", "SI", "OE", "OI"})

#: Prefix and type of a tag.
_Tag = tuple[str, str]


def of_labels(labels: Sequence[str]) -> Mapping[str, Callable[..., Any]]:
    """Return the hooks that read the names of tags."""
    tags = [_split(label) for label in labels]
    outside = next((index for index, (prefix, _) in enumerate(tags) if prefix == _OUTSIDE), None)

    def score(answers: NDArray[Any], gold: Any) -> NDArray[np.float64]:
        """Return how many entities of each example are right, wrong and missing, ``[examples, 3]``."""
        counts = np.zeros((len(gold), 3), dtype=np.float64)
        for row, answer, words in zip(counts, answers, gold, strict=True):
            best = _best(answer)
            given = [best.get(start, outside) for start, _, _ in words]
            known = set(_entities([tags[tag] for _, _, tag in words]))
            ours = set(_entities([(_OUTSIDE, "") if tag is None else tags[tag] for tag in given]))
            row[:] = len(known & ours), len(ours - known), len(known - ours)
        return counts

    def agree(expected: NDArray[Any], found: NDArray[Any], decided: float = 0.0) -> Agreement:
        """Compare answers: examples differ where their entities do, and are undecided where each changed word is."""
        sizes = np.maximum(expected.shape[1:], found.shape[1:]).tolist()
        one, other = _padded(expected, sizes), _padded(found, sizes)
        labels_differ = _logits(one).argmax(axis=2) != _logits(other).argmax(axis=2)
        moved = (one[..., :_PLACE] != other[..., :_PLACE]).any(axis=(1, 2))
        near = (_leads(_logits(one)) < decided) & (_leads(_logits(other)) < decided)
        differs = moved.copy()
        for row in np.flatnonzero(labels_differ.any(axis=1) & ~moved):
            differs[row] = _placed(one[row]) != _placed(other[row])
        distance = np.abs(_logits(one) - _logits(other)).max(axis=(1, 2), initial=0)
        return Agreement(differs, (near | ~labels_differ).all(axis=1) & ~moved, distance)

    def _placed(answer: NDArray[Any]) -> set[tuple[str, int, int]]:
        words = answer[_there(answer)]
        read = _entities([tags[tag] for tag in _logits(words).argmax(axis=1)])
        return {(kind, first, last) for kind, first, last in read}

    return {"score": score, "agree": agree}


def reordered(gold: Sequence[Any], index: Sequence[int]) -> list[Any]:
    """Return gold answers with tags as a model counts them.

    Raises:
        ModelError: The model does not have one of the tags.
    """
    if unknown := sorted({tag for words in gold for _, _, tag in words if not 0 <= tag < len(index)}):
        raise ModelError(f"the data has the tags {unknown}; the model knows 0 to {len(index) - 1}")
    return [[(start, end, index[tag]) for start, end, tag in words] for words in gold]


def relabelled(answers: NDArray[Any], index: Sequence[int]) -> NDArray[Any]:
    """Return answers with their tags in another order."""
    columns = [*range(_PLACE), *(_PLACE + label for label in index)]
    return answers[..., columns]


def targets(gold: Sequence[Any], rows: Sequence[Any], width: int, padding_side: str) -> NDArray[np.int64]:
    """Return the tag of each token that begins a word of the data, ``[batch, tokens]``; -100 for all others."""
    wanted = np.full((len(rows), width), _IGNORED, dtype=np.int64)
    for line, words, row in zip(wanted, gold, rows, strict=True):
        tags = {start: tag for start, _, tag in words}
        before = width - len(row) if padding_side == "left" else 0
        for position, start, _ in row.words:
            line[before + position] = tags.get(start, _IGNORED)
    return wanted


def taught(answers: Sequence[Any], rows: Sequence[Any], width: int, padding_side: str) -> NDArray[np.float32]:
    """Return a teacher's logits at the tokens that begin its words, ``[batch, tokens, tags]``; NaN elsewhere."""
    whole = np.asarray(answers, dtype=np.float32)
    wanted = np.full((len(rows), width, whole.shape[2] - _PLACE), np.nan, dtype=np.float32)
    for line, answer, row in zip(wanted, whole, rows, strict=True):
        known = {int(word[0]): word[_PLACE:] for word in answer[_there(answer)]}
        before = width - len(row) if padding_side == "left" else 0
        for position, start, _ in row.words:
            if start in known:
                line[before + position] = known[start]
    return wanted


def fold(owners: Sequence[int], outputs: Mapping[str, NDArray[Any]], rows: Sequence[Any]) -> NDArray[Any]:
    """Return where the words of each example are and the logits of their first tokens, ``[examples, words, 2 + tags]``.

    Raises:
        ModelError: The engine tokenizes by itself.
    """
    logits = outputs["logits"]
    if not all(hasattr(row, "words") for row in rows):
        raise ModelError("an engine that tokenizes by itself does not say where words begin", REFUSED["with_tokenizer"])
    words = [row.words for row in rows]
    answers = np.zeros((len(rows), max(map(len, words), default=0), _PLACE + logits.shape[2]), dtype=np.float32)
    for answer, values, places in zip(answers, logits, words, strict=True):
        if places:
            positions, starts, ends = np.array(places, dtype=np.int64).T
            answer[: len(places), 0], answer[: len(places), 1] = starts, ends
            answer[: len(places), _PLACE:] = values[positions]
    return answers


def activate(answers: NDArray[Any]) -> NDArray[Any]:
    """Return answers with probabilities in place of logits."""
    logits, there = _logits(answers), _there(answers)
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True, initial=-np.inf))
    probabilities = np.where(there[..., None], powers / powers.sum(axis=-1, keepdims=True), 0)
    whole: NDArray[Any] = np.concatenate([answers[..., :_PLACE], probabilities], axis=-1).astype(answers.dtype)
    return whole


def decode(answers: NDArray[Any], labels: Sequence[str], texts: Sequence[tuple[str, ...]] = ()) -> list[Prediction]:
    """Return the entities of each example: their type, place, and the mean probability of their words' tags."""
    tags, predictions = [_split(label) for label in labels], []
    for index, answer in enumerate(answers):
        words = answer[_there(answer)]
        probabilities = _logits(words)
        best, text, entities = probabilities.argmax(axis=1), texts[index][0] if texts else "", list[Entity]()
        for kind, first, last in _entities([tags[tag] for tag in best]):
            start, end = int(words[first, 0]), int(words[last, 1])
            sure = float(probabilities[first : last + 1].max(axis=1).mean())
            entities.append(Entity(kind, text[start:end], start, end, sure))
        least = min((entity.probability for entity in entities), default=1.0)
        predictions.append(Prediction("entities", least, entities=tuple(entities)))
    return predictions


def loss(outputs: Mapping[str, Any], batch: Mapping[str, Any], reduction: str = "mean") -> Any:
    """Return the mean cross-entropy of the words of a batch, or that times the examples."""
    functional = require("torch.nn.functional", "torch")
    logits, gold = outputs["logits"], batch["labels"]
    total = functional.cross_entropy(logits.flatten(0, 1), gold.flatten(), ignore_index=_IGNORED, reduction="sum")
    mean = total / (gold != _IGNORED).sum().clamp(min=1)
    return mean * len(gold) if reduction == "sum" else mean


def soft_loss(outputs: Mapping[str, Any], teacher: Any, batch: Mapping[str, Any], temperature: float) -> Any:
    """Return ``T² · KL(softmax(teacher / T) ‖ softmax(student / T))``, the mean over words: arXiv 1503.02531."""
    functional = require("torch.nn.functional", "torch")
    there = teacher[..., 0] == teacher[..., 0]  # NaN where no word begins
    known = functional.log_softmax(teacher[there] / temperature, dim=-1)
    learned = functional.log_softmax(outputs["logits"][there] / temperature, dim=-1)
    apart = functional.kl_div(learned, known, reduction="sum", log_target=True)
    return apart / there.sum().clamp(min=1) * temperature**2


def blend(teachers: Sequence[NDArray[Any]], temperature: float) -> NDArray[np.float64]:
    """Return logits whose softened probabilities are the mean of the teachers', for the words of the first one."""
    first = teachers[0].astype(np.float64)
    softened = []
    for answers in teachers:
        if answers.shape != first.shape or (answers[..., :_PLACE] != first[..., :_PLACE]).any():
            raise ModelError(
                "the teachers cut texts into different words", "take teachers with the same tokenizer and max_length"
            )
        scaled = answers.astype(np.float64)
        scaled[..., _PLACE:] /= temperature
        softened.append(_logits(activate(scaled)))
    mean = temperature * np.log(np.maximum(np.mean(softened, axis=0), 1e-30))
    logits = np.where(_there(first)[..., None], mean, 0)
    return np.concatenate([first[..., :_PLACE], logits], axis=-1)


def combine(scores: NDArray[np.float64]) -> float:
    """Return the F1 of all entities, 0 to 1: ``2·right / (2·right + wrong + missing)``; 0 where there are none."""
    return whole(resampled, scores)


def resampled(scores: NDArray[np.float64], counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the F1 of each resample."""
    return micro_f1(scores, counts)


def margin(answers: NDArray[Any]) -> NDArray[Any]:
    """Return by how much the tag of the least certain word leads its next one, in logits."""
    with np.errstate(divide="ignore", invalid="ignore"):  # what is no word has a probability of 0 for every tag
        leads = np.where(_there(answers), _leads(np.log(_logits(answers))), np.inf)
    least: NDArray[Any] = leads.min(axis=1, initial=np.inf)
    return least


def _split(label: str) -> _Tag:
    """Return the prefix and the type of a tag; a tag without a prefix is a type that goes on."""
    if label == _OUTSIDE:
        return _OUTSIDE, ""
    prefix, dash, kind = label.partition("-")
    known = dash and prefix in ("B", "I", "E", "S", *_SAME)
    return (_SAME.get(prefix, prefix), kind) if known else ("I", label)


def _entities(tags: Sequence[_Tag]) -> Iterator[tuple[str, int, int]]:
    """Yield type, first and last word of each entity, as seqeval reads them in its default mode."""
    (last, kind), begin = (_OUTSIDE, ""), 0
    for position, (prefix, named) in enumerate([*tags, (_OUTSIDE, "")]):
        pair, other = last + prefix, named != kind
        if last != _OUTSIDE and (last in "ES" or pair in _ENDS or other):
            yield kind, begin, position - 1
        if prefix != _OUTSIDE and (prefix in "BS" or pair in _BEGINS or other):
            begin = position
        last, kind = prefix, named


def _logits(answers: NDArray[Any]) -> NDArray[Any]:
    return answers[..., _PLACE:]


def _there(answers: NDArray[Any]) -> NDArray[np.bool_]:
    """Return which rows are words."""
    there: NDArray[np.bool_] = answers[..., 1] > answers[..., 0]
    return there


def _best(answer: NDArray[Any]) -> dict[int, int]:
    """Return the likeliest tag of each word by where it begins."""
    words = answer[_there(answer)]
    return dict(zip(words[:, 0].astype(int).tolist(), _logits(words).argmax(axis=1).tolist(), strict=True))


def _leads(logits: NDArray[Any]) -> NDArray[Any]:
    """Return by how much the likeliest tag of each word leads the next one, ``[examples, words]``."""
    ordered = np.sort(logits, axis=2)
    leads: NDArray[Any] = ordered[..., -1] - ordered[..., -2]
    return leads


def _padded(answers: NDArray[Any], sizes: Sequence[int]) -> NDArray[Any]:
    return np.pad(answers, [(0, 0), *((0, size - own) for size, own in zip(sizes, answers.shape[1:], strict=True))])
