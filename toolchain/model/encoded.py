"""Examples as a model reads them: tokenized, in batches of like length that a seed decides, padded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from toolchain import kinds
from toolchain.core.data import CLASSIFICATION, Split
from toolchain.model.tokens import SIDES, Tokens, tokenize

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Encoded:
    """Tokenized examples.

    Attributes:
        inputs: Per example, the model's inputs as lists of ints.
        labels: Per example, its gold answer, such as the index of its class.
        pad: What fills up the shorter rows of a batch, by input.
        teacher: Per example, a teacher's answer, if any.
        padding_side: Where the padding stands.
        cut: How many examples were longer than the model reads.
        kind: The kind of task.
        rows: Per example, its tokens as they were made.
        names: Names of the labels, where the kind of task needs them.
    """

    inputs: list[dict[str, list[int]]]
    labels: list[Any]
    pad: dict[str, int]
    teacher: Sequence[Any] | None = None
    padding_side: str = SIDES[0]
    cut: int = 0
    kind: str = CLASSIFICATION
    rows: Sequence[Tokens] = ()
    names: tuple[str, ...] = ()

    def take(self, indices: Sequence[int]) -> Encoded:
        """Return the examples at these positions, in this order, without a teacher's answers."""
        inputs, labels = [self.inputs[i] for i in indices], [self.labels[i] for i in indices]
        return replace(self, inputs=inputs, labels=labels, teacher=None, rows=[self.rows[i] for i in indices])


def encode(tokenizer: Any, split: Split, max_length: int, names: Sequence[str]) -> Encoded:
    """Tokenizes with the model's own tokenizer, without padding.

    Args:
        tokenizer: A fast tokenizer.
        split: Examples, single sentences or pairs.
        max_length: Longest input in tokens.
        names: The inputs that the model reads.
    """
    words = kinds.get(split.kind).READS_WORDS
    examples = tokenize(tokenizer.backend_tokenizer, split.texts, max_length, tokenizer.truncation_side, words=words)
    columns = {
        "input_ids": [row.ids for row in examples],
        "attention_mask": [[1] * len(row) for row in examples],
        "token_type_ids": [row.type_ids for row in examples],
    }
    rows = [{name: columns[name][i] for name in names} for i in range(len(split))]
    pad = {"input_ids": tokenizer.pad_token_id, "attention_mask": 0, "token_type_ids": tokenizer.pad_token_type_id}
    return Encoded(
        rows, list(split.labels), {name: pad[name] for name in names},
        padding_side=tokenizer.padding_side, cut=sum(row.cut for row in examples), kind=split.kind,
        rows=examples, names=split.names,
    )  # fmt: skip


def collate(data: Encoded, indices: Sequence[int], device: Any) -> dict[str, Any]:
    """One batch, padded to its longest example.

    Returns:
        Inputs, each ``[batch, tokens]`` int64, ``labels`` ``[batch, …]``, and ``teacher`` ``[batch, …]`` if any.
    """
    import torch

    longest = max(len(data.inputs[i]["input_ids"]) for i in indices)

    def filled(row: list[int], pad: int) -> list[int]:
        padding = [pad] * (longest - len(row))
        return padding + row if data.padding_side == "left" else row + padding

    batch = {name: torch.tensor([filled(data.inputs[i][name], pad) for i in indices]) for name, pad in data.pad.items()}
    kind, rows = kinds.get(data.kind), [data.rows[i] for i in indices]
    gold = [data.labels[i] for i in indices]
    batch["labels"] = torch.tensor(kind.targets(gold, rows, longest, data.padding_side))
    if data.teacher is not None:
        taught = [data.teacher[i] for i in indices]
        batch["teacher"] = torch.tensor(kind.taught(taught, rows, longest, data.padding_side))
    return {name: values.to(device, non_blocking=True) for name, values in batch.items()}


def outputs(model: Any, batch: dict[str, Any], kind: str) -> dict[str, Any]:
    """Return a model's outputs on a batch by name, fp32 tensors; ``labels`` and ``teacher`` are not read."""
    inputs = {name: value for name, value in batch.items() if name not in ("labels", "teacher")}
    return {name: value.float() for name, value in kinds.get(kind).forward(model, inputs).items()}


def answers(model: Any, data: Encoded, batch_size: int = 64) -> Iterator[tuple[list[int], dict[str, Any], Any]]:
    """What a model answers, in batches sorted by length, without gradients.

    Yields:
        Indices of the examples, their batch, and the outputs by name, fp32 tensors where the model is.
    """
    import torch

    device = next(model.parameters()).device
    order = sorted(range(len(data.labels)), key=lambda i: len(data.inputs[i]["input_ids"]))
    model.eval()
    for start in range(0, len(order), batch_size):
        indices = order[start : start + batch_size]
        with torch.inference_mode():
            batch = collate(data, indices, device)
            found = outputs(model, batch, data.kind)
        yield indices, batch, found


def folded(data: Encoded, indices: Sequence[int], outputs: Mapping[str, Any]) -> NDArray[np.float32]:
    """Return the answers of some examples, ``[examples, …]``, from a model's outputs on the batch of them."""
    kind, rows = kinds.get(data.kind, data.names), [data.rows[i] for i in indices]
    arrays = {name: value.cpu().numpy() for name, value in outputs.items()}
    return kind.fold(
        range(len(rows)), kinds.from_first_token(kind, arrays, [len(row) for row in rows], data.padding_side), rows
    )


def logits(model: Any, data: Encoded, threads: int) -> NDArray[np.float32]:
    """A model's answers to encoded examples, ``[examples, …]``, in their order; computed on a GPU if there is one.

    The model is back on the CPU afterwards.
    """
    import torch

    torch.set_num_threads(threads)
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    order, parts = list[int](), []
    try:
        for indices, _, batch in answers(model, data):
            order += indices
            parts.append(folded(data, indices, batch))
    finally:
        model.to("cpu")
    whole = kinds.joined(parts)
    ordered = np.empty_like(whole)
    ordered[order] = whole
    return ordered


def batches(lengths: Sequence[int], batch_size: int, seed: int, epoch: int) -> list[list[int]]:
    """Shuffled batches of examples of similar length; they depend on (seed, epoch) and on nothing else.

    Args:
        lengths: Tokens of every example.
        batch_size: Examples per batch; the last one may be smaller.
        seed: Training seed.
        epoch: Epoch number, from 0.
    """
    import random

    rng = random.Random(seed * 1_000_003 + epoch)
    order = list(range(len(lengths)))
    rng.shuffle(order)
    window = 50 * batch_size
    made = []
    for start in range(0, len(order), window):
        part = sorted(order[start : start + window], key=lengths.__getitem__)
        made += [part[i : i + batch_size] for i in range(0, len(part), batch_size)]
    rng.shuffle(made)
    return made
