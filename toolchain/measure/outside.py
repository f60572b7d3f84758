"""A reference from outside: transformers' own tokenizer and model on raw strings, held against what is deployed.

The gates compare an engine with our own graph, so they cannot see what was lost before it: on the way from the user's
folder, in the tokenizer, or in the head. Each adopted or exported checkpoint is therefore asked once, with texts of the
task's own dev split, longer ones than it reads, and odd ones; alone and in padded batches. Token ids must be equal, and
logits within ``TOLERANCE``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from toolchain.core.errors import GateError, ModelError, require
from toolchain.core.vendor import vendor
from toolchain.measure.parity import Graph
from toolchain.model import checkpoint, shapes, tokens

if TYPE_CHECKING:
    from numpy.typing import NDArray

VERSION = 1

#: Largest |Δlogit|, of logits up to 1 in size, and relative to larger ones.
TOLERANCE = 1e-3

#: Texts of the task's dev split.
OWN = 8

#: Logits are compared on texts of at most so many tokens: attention takes time by their square.
MOST_TOKENS = 512

#: Texts of a padded batch; one of them is long.
BATCH = 5

#: What a text may hold that a tokenizer, a normalizer or a template may read in its own way.
ODD = (
    "", " ", "\t\n", "a", "UPPER lower MiXeD", "  leading, double  spaces ", "don't, 3.14; 1,000 a@b.c http://x/?q",
    "naïve café ÅÄÖ ß", "e\u0301 combining", "“quotes” — and …", "日本語のテキスト", "العربية עברית",
    "🙂 👩\u200d👩 🇩🇪",
    "zero\u200bwidth\u00adsoft\u00a0space", "\ufeffmark and \x07 bell", "[CLS] [SEP] <s> </s>", "a" * 120,
)  # fmt: skip

Text = tuple[str, ...]


def examples(own: Sequence[Text], pair: bool, max_length: int) -> list[Text]:
    """Return the texts to ask: the task's own, long ones, and odd ones.

    Args:
        own: Texts of the task.
        pair: Whether the model reads pairs.
        max_length: Tokens after which the deployment cuts.
    """
    singles = [part for text in own[:OWN] for part in text if part.strip()] or ["a text"]
    words = " ".join(singles).split()
    long = " ".join((words * (max_length // len(words) + 2))[: max_length + 16])
    half = " ".join(long.split()[: max_length // 2])
    if not pair:
        return [*((text,) for text in singles[:OWN]), (long,), *((text,) for text in ODD)]
    whole = [text for text in own[:OWN] if len(text) == 2] or list(zip(singles, singles[::-1], strict=True))
    odd = [(text, singles[0]) if index % 2 else (singles[-1], text) for index, text in enumerate(ODD)]
    return [*whole, (long, singles[0]), (singles[0], long), (half, half), *odd]


def check_tokens(source: Path, deployed: Path, own: Sequence[Text]) -> dict[str, Any]:
    """Hold the tokens of a deployment against those of transformers' tokenizer.

    Args:
        source: Folder of the tokenizer as it came.
        deployed: Folder with ``tokenizer.json`` and ``interface.json``.
        own: Texts of the task.

    Returns:
        ``texts``, how many were asked, and the version of transformers.

    Raises:
        GateError: They differ; it names the first text.
    """
    interface = checkpoint.read_json(deployed / "interface.json")
    tokenizer, longest = checkpoint.load_tokenizer(source), int(interface["max_length"])
    asked = examples(own, bool(interface.get("pair")), longest)
    expected = _rows(tokenizer, asked, longest)
    _compare_tokens(asked, expected, [row.ids for row in tokens.encode(deployed, asked)])
    return {"texts": len(asked), "transformers": require("transformers", "torch").__version__}


def check(source: Path, deployed: Path, own: Sequence[Text], threads: int) -> dict[str, Any]:
    """Hold the tokens and logits of a deployed graph against those of transformers.

    Args:
        source: Checkpoint folder.
        deployed: The folder that was exported from it.
        own: Texts of the task.
        threads: Threads to compute with.

    Returns:
        ``texts``, ``max_difference`` of a logit (None of a model that is quantized in training, whose rounding its
        export judges), and the version of transformers.

    Raises:
        GateError: They differ; it names the first text.
    """
    torch = require("torch", "torch")
    found = check_tokens(source, deployed, own)
    if shapes.QUANTIZERS in checkpoint.read_json(source / "config.json"):
        return found | {"max_difference": None}
    graph = Graph(deployed, threads)
    longest = graph.predictor.interface.max_length
    tokenizer, model, kind = checkpoint.load_tokenizer(source), checkpoint.load_model(source), graph.predictor.kind
    names = checkpoint.model_inputs(model, tokenizer)
    asked = examples(own, graph.predictor.interface.pair, longest)
    lengths = [len(ids) for ids in _rows(tokenizer, asked, longest)]
    asked = [text for text, length in zip(asked, lengths, strict=True) if length <= MOST_TOKENS]
    torch.set_num_threads(threads)
    largest = 0.0
    for batch in _batches(asked):
        given = _encoded(tokenizer, batch, longest, padding=True, return_tensors="pt")
        feed = graph.feed(batch)
        for name in set(names) & set(feed):
            _compare_tokens(batch, given[name].tolist(), feed[name].tolist(), name)
        with torch.inference_mode():
            outputs = kind.forward(model, {name: given[name] for name in names})
        answers = graph.session.run(feed)
        for name, expected in outputs.items():
            largest = max(largest, _compare(batch, name, expected.float().numpy(), answers[name]))
    return found | {"max_difference": largest}


def _batches(texts: Sequence[Text]) -> Iterator[Sequence[Text]]:
    """Yield batches of mixed lengths, and the texts that stand at their ends alone."""
    ordered = sorted(texts, key=lambda text: sum(map(len, text)))
    rounds = -(-len(ordered) // BATCH)
    for start in range(rounds):
        yield ordered[start::rounds]
    for text in (ordered[0], ordered[len(ordered) // 2], ordered[-1]):
        yield [text]


def _columns(texts: Sequence[Text]) -> list[list[str]]:
    return [list(column) for column in zip(*texts, strict=True)]


def _rows(tokenizer: Any, texts: Sequence[Text], longest: int) -> list[list[int]]:
    """Return the token ids that transformers gives each text, without padding.

    The texts are given as lists: of a single pair whose second text is empty, transformers makes a single text.
    """
    return [list(ids) for ids in _encoded(tokenizer, texts, longest)["input_ids"]]


def _encoded(tokenizer: Any, texts: Sequence[Text], longest: int, **settings: Any) -> Any:
    """Return what transformers' tokenizer gives texts.

    Raises:
        ModelError: It cannot read them.
    """
    hint = "copy its tokenizer.json and tokenizer_config.json again"
    with vendor("cannot read these texts", "transformers' tokenizer", ModelError, hint):
        return tokenizer(*_columns(texts), truncation=True, max_length=longest, **settings)


def _compare_tokens(
    texts: Sequence[Text], expected: Sequence[list[int]], found: Sequence[list[int]], name: str = "input_ids"
) -> None:
    for text, theirs, ours in zip(texts, expected, found, strict=True):
        if theirs == ours:
            continue
        at = next(
            (i for i, (a, b) in enumerate(zip(theirs, ours, strict=False)) if a != b), min(len(theirs), len(ours))
        )
        raise GateError(
            f"the text {_shown(text)} is read otherwise than transformers reads it: {name} differ from position {at}: "
            f"{theirs[at : at + 6]} ({len(theirs)} in all) by transformers, {ours[at : at + 6]} ({len(ours)}) here",
            "nothing was published: report it with the model's tokenizer.json and tokenizer_config.json",
        )


def _compare(texts: Sequence[Text], name: str, expected: NDArray[np.float32], found: NDArray[np.float32]) -> float:
    """Return the largest difference of a number of an output of a batch."""
    if expected.shape != found.shape:
        raise GateError(
            f"transformers answers {len(texts)} texts with the shape {list(expected.shape)}, and the graph with "
            f"{list(found.shape)}",
            "nothing was published: report it",
        )
    differences = np.abs(expected - found)
    close = differences <= TOLERANCE * np.maximum(1, np.abs(expected))
    wrong = ~close.reshape(len(close), -1).all(axis=1)
    if wrong.any():
        index = int(wrong.argmax())
        raise GateError(
            f"the text {_shown(texts[index])} is answered otherwise than by transformers, in a batch of {len(texts)}: "
            f"{name} {_numbers(expected[index])} by transformers, {_numbers(found[index])} here",
            "nothing was published: report it with the model's config.json",
        )
    return float(differences.max(initial=0))


def _numbers(values: NDArray[np.float32]) -> str:
    return "[" + ", ".join(f"{value:.4g}" for value in values.ravel()[:6]) + "]"


def _shown(text: Text) -> str:
    return " + ".join(repr(part[:60] + ("…" if len(part) > 60 else "")) for part in text)
