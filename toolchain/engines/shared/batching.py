"""Splits examples into batches of like length so that the predicted time of all of them is least.

A batch of ``r`` examples, padded to the longest of them, ``n`` tokens, is taken to cost

    t(r, n) = call + r·n·(1 + n / attention)

in units of one token's products with the weights: ``call`` is what a batch costs whatever is in it (starting the graph,
reading every weight once), and ``attention`` the length at which the products inside attention, which grow with n²,
cost as much as those with the weights. Sorted by length, examples that are batched together stand side by side: were
they not, swapping two of them would make no batch longer. So the best split is the shortest path over the cuts,

    best(j) = min over i < j of best(i) + t(j − i, length of i),

which is found exactly. Not every cut has to be tried: moving one back among rows of equal length takes rows out of the
longer batch and lengthens none, so that it may stand where the length changes, or where the batch after it is full.

An engine that computes several batches at a time ends with the last of its streams. The split of least total cost then
stands beside others that give every stream as many tokens, and the one that is predicted to end first is taken.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate, pairwise
from typing import Any

from toolchain.core.errors import EngineError

#: The key of ``engine.json`` that holds what was measured of an engine.
BATCHING_KEY = "batching"

#: Splits by even tokens are tried up to so many batches for each stream.
MOST_EACH = 6


@dataclass(frozen=True, kw_only=True, slots=True)
class Batching:
    """How an engine likes its batches.

    The defaults lie in the middle of what int8 and fp32 encoders of 6 and 12 layers measured on x86 CPUs; a split
    that takes twice or half the true ``call`` loses about 1 % (``docs/predictor.md``).

    Attributes:
        call: Cost of a batch whatever is in it, in tokens.
        attention: Length, in tokens, at which attention's own products cost as much as those with the weights.
        token_budget: The most cells, rows × longest, of a batch of more than one row.
    """

    call: float = 32.0
    attention: float = 1024.0
    token_budget: int = 4096

    def row_cost(self, length: int) -> float:
        """What one more row of a batch costs, in tokens.

        Args:
            length: Tokens that the batch is padded to.
        """
        return length * (1 + length / self.attention)

    def cost(self, rows: int, length: int) -> float:
        """What a batch costs, in tokens.

        Args:
            rows: Examples in it.
            length: Tokens that it is padded to.
        """
        return self.call + rows * self.row_cost(length)

    def record(self) -> dict[str, float]:
        """As it stands in ``engine.json``."""
        return asdict(self)


def read_batching(extra: Mapping[str, Any], where: str) -> Batching:
    """What ``engine.json`` says of an engine's batches, or the defaults where it says nothing.

    Args:
        extra: What the file holds besides the engine, its files and its options.
        where: The file, for errors.

    Raises:
        EngineError: A value is no number, or not a positive one.
    """
    record = extra.get(BATCHING_KEY, {})
    known = Batching().record()
    if not isinstance(record, dict) or set(record) - set(known):
        raise EngineError(f"{where}: {BATCHING_KEY} is {record!r}; known are {', '.join(known)}", "build it again")
    for name, value in record.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
            raise EngineError(f"{where}: {BATCHING_KEY}.{name} is {value!r}; allowed are numbers above 0")
    return Batching(**record)


def plan_batches(lengths: Sequence[int], batch_size: int, batching: Batching, concurrency: int = 1) -> list[list[int]]:
    """Splits examples into batches; the least predicted time of all splits that keep to the limits.

    Args:
        lengths: Tokens of each example.
        batch_size: The most examples of a batch, from 1.
        batching: The engine's costs, and its token budget: a batch of more than one row keeps rows × longest within it.
        concurrency: Batches that are computed at a time; above 1, the least of the splits that are tried.

    Returns:
        Positions of each batch's examples, the longest first; the batches with the longest examples first. Every
        position stands in exactly one.
    """
    order = sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True)
    ordered = [lengths[index] for index in order]
    bounds = _cheapest(ordered, batch_size, batching)
    if concurrency > 1:
        tried = [bounds, *_even(ordered, batch_size, batching, concurrency)]
        bounds = min(tried, key=lambda one: _end(ordered, one, batching, concurrency))
    return [order[start:end] for start, end in bounds]


def _cheapest(ordered: Sequence[int], batch_size: int, batching: Batching) -> list[tuple[int, int]]:
    """Start and end of each batch of the split that costs least in all, of lengths in descending order."""
    costs = [batching.row_cost(length) for length in ordered]
    steps = [i for i in range(1, len(ordered)) if ordered[i] != ordered[i - 1]]
    earliest = _earliest_cuts(ordered, batch_size, batching.token_budget)
    ends = {*steps, len(ordered)}
    for end in range(len(ordered), 0, -1):
        if end in ends:
            ends.add(earliest[end])
    best, cut = {0: 0.0}, {}
    for end in sorted(ends - {0}):
        first, least = earliest[end], float("inf")
        for start in (first, *steps[bisect_right(steps, first) : bisect_left(steps, end)]):
            total = best[start] + (end - start) * costs[start]
            if total < least:
                least, cut[end] = total, start
        best[end] = least + batching.call
    bounds, end = [], len(ordered)
    while end:
        bounds.append((cut[end], end))
        end = cut[end]
    return bounds[::-1]


def _even(
    ordered: Sequence[int], batch_size: int, batching: Batching, concurrency: int
) -> Iterator[list[tuple[int, int]]]:
    """Splits into batches of about equal cost, as many as each stream gets equally many of, within the limits."""
    sums = list(accumulate(map(batching.row_cost, ordered)))
    least = -(-len(ordered) // batch_size)
    for count in range(concurrency, min(concurrency * MOST_EACH, len(ordered)) + 1, concurrency):
        if count < least:
            continue
        cuts = {bisect_left(sums, sums[-1] * part / count) + 1 for part in range(1, count)}
        bounds = list(pairwise(sorted({0, *(cut for cut in cuts if cut < len(ordered)), len(ordered)})))
        if all(
            end - start == 1 or (end - start <= batch_size and (end - start) * ordered[start] <= batching.token_budget)
            for start, end in bounds
        ):
            yield bounds


def _end(ordered: Sequence[int], bounds: Sequence[tuple[int, int]], batching: Batching, concurrency: int) -> float:
    """When the last stream ends, in tokens, where each takes the most expensive batch that is left."""
    ends = [0.0] * concurrency
    for cost in sorted((batching.cost(end - start, ordered[start]) for start, end in bounds), reverse=True):
        ends[ends.index(min(ends))] += cost
    return max(ends)


def _earliest_cuts(ordered: Sequence[int], batch_size: int, token_budget: int) -> list[int]:
    """For every end, where the largest batch that may end there begins."""
    found, first = [0], 0
    for end in range(1, len(ordered) + 1):
        while end - first > max(1, min(batch_size, token_budget // max(1, ordered[first]))):
            first += 1
        found.append(first)
    return found


def padding_waste(lengths: Sequence[int], batches: Sequence[Sequence[int]]) -> float:
    """Share of the cells of padded batches that are padding, 0 to 1.

    Args:
        lengths: Tokens of each example.
        batches: Positions of each batch's examples.
    """
    cells = sum(len(batch) * max(lengths[index] for index in batch) for batch in batches if batch)
    return 1 - sum(lengths[index] for batch in batches for index in batch) / cells if cells else 0.0
