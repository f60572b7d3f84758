"""Examples as a model reads them: tokenized, in batches of like length that a seed decides, padded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from toolchain.core.data import Split


@dataclass(frozen=True)
class Encoded:
    """Tokenized examples: per example the model's inputs as lists of ints, the label, and a teacher's logits if any."""

    inputs: list[dict[str, list[int]]]
    labels: list[int]
    pad: dict[str, int]
    teacher: list[list[float]] | None = None


def encode(tokenizer: Any, split: Split, max_length: int, names: Sequence[str]) -> Encoded:
    """Tokenizes with the model's own tokenizer, without padding.

    Args:
        tokenizer: A fast tokenizer.
        split: Examples, single sentences or pairs.
        max_length: Longest input in tokens.
        names: The inputs that the model reads.
    """
    columns = [list(column) for column in zip(*split.texts, strict=True)]
    output = tokenizer(*columns, truncation=True, max_length=max_length, padding=False)
    rows = [{name: output[name][i] for name in names if name in output} for i in range(len(split))]
    pad = {"input_ids": tokenizer.pad_token_id, "attention_mask": 0, "token_type_ids": tokenizer.pad_token_type_id}
    return Encoded(rows, list(split.labels), {name: pad[name] for name in rows[0]})


def collate(data: Encoded, indices: Sequence[int], device: Any) -> dict[str, Any]:
    """One batch, padded to its longest example.

    Returns:
        Inputs, each ``[batch, tokens]`` int64, ``labels`` ``[batch]``, and ``teacher`` ``[batch, classes]`` if any.
    """
    import torch

    longest = max(len(data.inputs[i]["input_ids"]) for i in indices)
    batch = {
        name: torch.tensor([row + [pad] * (longest - len(row)) for row in (data.inputs[i][name] for i in indices)])
        for name, pad in data.pad.items()
    }
    batch["labels"] = torch.tensor([data.labels[i] for i in indices])
    if data.teacher is not None:
        batch["teacher"] = torch.tensor([data.teacher[i] for i in indices])
    return {name: values.to(device, non_blocking=True) for name, values in batch.items()}


def answers(model: Any, data: Encoded, batch_size: int = 64) -> Iterator[tuple[list[int], Any, Any]]:
    """What a model answers, in batches sorted by length, without gradients.

    Yields:
        Indices of the examples, their labels ``[batch]`` and the logits ``[batch, classes]``, fp32, where the model is.
    """
    import torch

    device = next(model.parameters()).device
    order = sorted(range(len(data.labels)), key=lambda i: len(data.inputs[i]["input_ids"]))
    model.eval()
    for start in range(0, len(order), batch_size):
        indices = order[start : start + batch_size]
        with torch.inference_mode():
            batch = collate(data, indices, device)
            known = batch.pop("labels")
            found = model(**batch).logits.float()
        yield indices, known, found


def logits(model: Any, data: Encoded, threads: int) -> list[list[float]]:
    """A model's logits on encoded examples, ``[examples][classes]``, in their order; computed on a GPU if there is one.

    The model is back on the CPU afterwards.
    """
    import torch

    torch.set_num_threads(threads)
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    found: list[list[float]] = [[] for _ in data.labels]
    try:
        for indices, _, batch in answers(model, data):
            for index, row in zip(indices, batch.tolist(), strict=True):
                found[index] = row
    finally:
        model.to("cpu")
    return found


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
