"""Importance from gradients, gathered on training examples one at a time, before anything is trained."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from toolchain.compress.shared.criteria import Criterion
from toolchain.compress.shared.targets import Target
from toolchain.core.errors import require
from toolchain.core.log import progress
from toolchain.core.stage import Context
from toolchain.model import checkpoint
from toolchain.model.encoded import Encoded, collate, encode
from toolchain.model.train import loss_of


def gather(
    model: Any, tokenizer: Any, targets: Sequence[Target], criterion: Criterion, context: Context, samples: int
) -> dict[Target, Any]:
    """Mean score of every unit over examples, in evaluation mode, without dropout.

    Args:
        model: A sequence classifier; its weights are not changed.
        tokenizer: Its tokenizer.
        targets: What is scored.
        criterion: Takes a matrix and its gradient for one example.
        context: Data, threads, and the seed that draws the examples.
        samples: How many training examples are read.
    """
    torch = require("torch", "torch")
    torch.set_num_threads(context.threads)
    data = sample(model, tokenizer, context, samples)
    model.eval()
    weights = [target.weight(model) for target in targets]
    found = {target: torch.zeros(target.pool(w.detach()).shape) for target, w in zip(targets, weights, strict=True)}
    with progress("importance", len(data.labels)) as bar:
        for index in range(len(data.labels)):
            gradients = torch.autograd.grad(loss_of(data.kind)(model, collate(data, [index], "cpu")), weights)
            for target, weight, gradient in zip(targets, weights, gradients, strict=True):
                found[target] += criterion(weight.detach(), gradient, target.pool) / len(data.labels)
            bar.advance()
    return found


def sample(model: Any, tokenizer: Any, context: Context, samples: int) -> Encoded:
    """Training examples drawn by the seed, encoded, shortest first; never dev or test."""
    train = context.dataset().split("train")
    drawn = random.Random(context.seed).sample(range(len(train)), min(samples, len(train)))
    names = checkpoint.model_inputs(model, tokenizer)
    longest = checkpoint.longest_input(model.config, tokenizer)
    data = encode(tokenizer, train, min(longest, 512), names)
    drawn.sort(key=lambda i: (len(data.inputs[i]["input_ids"]), i))
    return data.take(drawn)
