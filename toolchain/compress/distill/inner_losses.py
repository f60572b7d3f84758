"""What a student learns from inside a teacher: hidden states, attention maps and relations, compared layer by layer.

Both models are listened to at the layers' query, key and value products, while they compute as always; so it does not
matter how attention is implemented, how many heads a layer has left, or whether layers share their weights.

- ``hidden``: mean squared difference of the layers' outputs, each token's normalized to mean 0 and variance 1, the
  student's through a learned projection where it is narrower: FitNets, arXiv 1412.6550; PKD, arXiv 1908.09355, whose
  normalization it is but for the mean.
- ``embeddings``: the same of what the first layer reads: TinyBERT, arXiv 1909.10351.
- ``attention``: Kullback-Leibler divergence of the attention maps, over the heads where both have as many, and of their
  mean where not: attention transfer, arXiv 1612.03928; MiniLM, arXiv 2002.10957.
- ``relations``: the same of query-query, key-key and value-value products of the student's last layer, all split into
  one number of relation heads: MiniLMv2, arXiv 2012.15828.

Padding has no part in any of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.nn import functional

from toolchain.core.errors import ModelError
from toolchain.model.anatomy import heads, hidden, layers_of
from toolchain.model.tokens import tokenize

#: What can be compared inside.
KINDS = ("hidden", "embeddings", "attention", "relations")

#: Attribute of the student that holds its projections while it learns.
PROJECTIONS = "lesson_projections"

#: Most relation heads.
RELATION_HEADS = 12


class Lesson:
    """Compares a student with a teacher inside.

    Args:
        student: The model that learns; projections become part of it until :meth:`end`.
        teacher: The model that is learned from.
        mapping: For each layer of the student that is computed, the teacher's, from 0.
        weights: Of each of :data:`KINDS`; what is 0 is not computed.
        ids: The teacher's token for each of the student's, int64 ``[student tokens]``.
        reads: The teacher's inputs, by name.
        seed: Seed of the projections.
    """

    def __init__(
        self, student: Any, teacher: Any, mapping: Sequence[int], weights: Mapping[str, float], ids: torch.Tensor,
        reads: Sequence[str], seed: int,
    ) -> None:  # fmt: skip
        self.student, self.teacher = student, teacher.eval()
        self.mapping, self.reads, self.ids = tuple(mapping), tuple(reads), ids
        self.weights = {kind: weight for kind, weight in weights.items() if weight}
        self.widths = (hidden(student), hidden(teacher))
        self.mine, self.theirs = _Listener(student), _Listener(teacher)
        torch.manual_seed(seed)
        places = [] if self.widths[0] == self.widths[1] else self._projected()
        if places:
            made = {place: torch.nn.Linear(*self.widths, bias=False) for place in places}
            student.add_module(PROJECTIONS, torch.nn.ModuleDict(made))

    def end(self) -> None:
        """Stops listening and takes the projections out of the student."""
        self.mine.close()
        self.theirs.close()
        if hasattr(self.student, PROJECTIONS):
            delattr(self.student, PROJECTIONS)

    def loss(self, answers: Callable[[Any, dict[str, Any]], Any]) -> Callable[[Any, dict[str, Any]], Any]:
        """The loss of answers, and that of what is compared inside beside it."""

        def both(model: Any, batch: dict[str, Any]) -> Any:
            with self.mine:
                total = answers(model, batch)
            device = batch["input_ids"].device
            if next(self.teacher.parameters()).device != device:
                self.teacher.to(device)
                self.ids = self.ids.to(device)
            asked = {name: batch[name] for name in self.reads if name in batch} | {
                "input_ids": self.ids[batch["input_ids"]]
            }
            with torch.no_grad(), self.theirs:
                self.teacher(**asked)
            mask = batch["attention_mask"].bool()
            with torch.autocast(device.type, enabled=False):
                for kind, weight in self.weights.items():
                    total = total + weight * getattr(self, f"_{kind}")(mask)
            return total

        return both

    def _projected(self) -> list[str]:
        places = ["embeddings"] if "embeddings" in self.weights else []
        return places + ([str(index) for index in range(len(self.mapping))] if "hidden" in self.weights else [])

    def _hidden(self, mask: torch.Tensor) -> torch.Tensor:
        pairs = enumerate(self.mapping)
        losses = [self._states(self.mine.outputs[s], self.theirs.outputs[t], str(s), mask) for s, t in pairs]
        return torch.stack(losses).mean()

    def _embeddings(self, mask: torch.Tensor) -> torch.Tensor:
        return self._states(self.mine.embedded, self.theirs.embedded, "embeddings", mask)

    def _attention(self, mask: torch.Tensor) -> torch.Tensor:
        losses = []
        for s, t in enumerate(self.mapping):
            maps = [
                _log_map(each.query[index], each.key[index], each.heads[index], mask)
                for each, index in ((self.mine, s), (self.theirs, t))
            ]
            if maps[0].shape[1] != maps[1].shape[1]:
                maps = [torch.logsumexp(found, 1, keepdim=True) for found in maps]  # the mean's, but for a constant
                maps = [torch.log_softmax(found, -1) for found in maps]
            losses.append(_divergence(maps[0], maps[1], mask))
        return torch.stack(losses).mean()

    def _relations(self, mask: torch.Tensor) -> torch.Tensor:
        last, t = len(self.mapping) - 1, self.mapping[-1]
        losses = []
        for part in ("query", "key", "value"):
            mine, theirs = getattr(self.mine, part)[last], getattr(self.theirs, part)[t]
            count = relation_heads(mine.shape[-1], theirs.shape[-1])
            maps = [_log_map(states, states, count, mask) for states in (mine, theirs)]
            losses.append(_divergence(maps[0], maps[1], mask))
        return torch.stack(losses).mean()

    def _states(self, mine: torch.Tensor, theirs: torch.Tensor, place: str, mask: torch.Tensor) -> torch.Tensor:
        projections = getattr(self.student, PROJECTIONS, None)
        mine = mine.float()[mask]
        if projections is not None:
            mine = projections[place](mine)
        width = (theirs.shape[-1],)
        return functional.mse_loss(
            functional.layer_norm(mine, width), functional.layer_norm(theirs.float()[mask], width)
        )


class _Listener:
    """Keeps what a model's layers compute during a pass, layer by layer in the order in which they run."""

    def __init__(self, model: Any) -> None:
        self.embedded: Any = None
        self.query: list[Any] = []
        self.key: list[Any] = []
        self.value: list[Any] = []
        self.outputs: list[Any] = []
        self.heads: list[int] = []
        self._on = False
        self._hooks = []
        for layer in layers_of(model):
            for part in ("query", "key", "value"):
                module = model.get_submodule(getattr(layer, part))
                self._hooks.append(module.register_forward_hook(self._note(part, heads(model, layer))))
            norm = model.get_submodule(layer.ffn_norm)
            self._hooks.append(norm.register_forward_hook(self._note("outputs", 0)))

    def __enter__(self) -> None:
        self.embedded, self._on = None, True
        for kept in (self.query, self.key, self.value, self.outputs, self.heads):
            kept.clear()

    def __exit__(self, *_: object) -> None:
        self._on = False

    def close(self) -> None:
        for hook in self._hooks:
            hook.remove()

    def _note(self, part: str, count: int) -> Callable[[Any, Any, Any], None]:
        def note(module: Any, inputs: Any, output: Any) -> None:
            if not self._on:
                return
            getattr(self, part).append(output)
            if part == "query":
                self.heads.append(count)
                self.embedded = inputs[0] if self.embedded is None else self.embedded

        return note


def relation_heads(mine: int, theirs: int) -> int:
    """The most relation heads, up to :data:`RELATION_HEADS`, into which both widths can be split."""
    return max(n for n in range(1, RELATION_HEADS + 1) if mine % n == 0 and theirs % n == 0)


def spread(student: int, teacher: int) -> tuple[int, ...]:
    """The teacher's layer for each of the student's, evenly, its last for the last: TinyBERT's and PKD-skip's mapping.

    Args:
        student: Layers of the student.
        teacher: Layers of the teacher.
    """
    return tuple(max(0, round((index + 1) * teacher / student) - 1) for index in range(student))


def token_ids(student: Any, teacher: Any, texts: Sequence[tuple[str, ...]], max_length: int) -> torch.Tensor:
    """The teacher's token for each of the student's.

    Args:
        student: Its tokenizer.
        teacher: Its tokenizer.
        texts: Training texts, all of which both must cut into the same tokens.
        max_length: Longest input in tokens.

    Returns:
        int64 ``[largest token of the student + 1]``.

    Raises:
        ModelError: They cut a text differently, so that there is no state of the one for a state of the other.
    """
    read = [tokenize(each.backend_tokenizer, texts, max_length, each.truncation_side) for each in (student, teacher)]
    known, other = student.get_vocab(), teacher.get_vocab()
    ids = torch.zeros(max(known.values()) + 1, dtype=torch.int64)
    ids[student.pad_token_id] = teacher.pad_token_id
    for token, index in known.items():
        if token in other:
            ids[index] = other[token]
    for text, mine, theirs in zip(texts, *([row.ids for row in rows] for rows in read), strict=True):
        if ids[torch.tensor(mine)].tolist() != theirs:
            cut = student.convert_ids_to_tokens(mine), teacher.convert_ids_to_tokens(theirs)
            first = next((i for i, (one, other) in enumerate(zip(*cut, strict=False)) if one != other), 0)
            raise ModelError(
                f"hidden, embeddings, attention and relations compare token by token, and teacher and student cut "
                f"{' | '.join(text)[:60]!r} into different tokens: {cut[0][first : first + 8]} "
                f"and {cut[1][first : first + 8]}",
                "between tokenizers only answers are well-defined: losses: {labels: …, logits: …}",
            )
    return ids


def _log_map(left: torch.Tensor, right: torch.Tensor, count: int, mask: torch.Tensor) -> torch.Tensor:
    """Log-probabilities of scaled dot products, ``[batch, count, tokens, tokens]``, padded keys left out."""
    batch, tokens, width = left.shape
    left, right = (x.float().view(batch, tokens, count, width // count).transpose(1, 2) for x in (left, right))
    scores = left @ right.transpose(-1, -2) / (width // count) ** 0.5
    scores = scores.masked_fill(~mask[:, None, None, :], torch.finfo(scores.dtype).min)
    return functional.log_softmax(scores, -1)


def _divergence(mine: torch.Tensor, theirs: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Mean Kullback-Leibler divergence of the student's maps from the teacher's, over heads and tokens."""
    each = functional.kl_div(mine, theirs, reduction="none", log_target=True)
    each = each.masked_fill(~mask[:, None, None, :], 0.0).sum(-1)  # [batch, heads, tokens]
    return each.mean(1)[mask].mean()
