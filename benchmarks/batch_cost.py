"""What an engine's batches cost by their shape: the numbers behind ``batching`` in ``engine.json``.

Times one engine at shapes from one short row to many long ones, in interleaved rounds, and fits

    t(r, n) = A + B·r·n + C·r·n²,

least squares of the relative error, none of them negative. ``Batching`` wants the ratios ``call`` = A / B and
``attention`` = B / C, and the token budget: the largest batch whose cells cost no more than 5 % over the cheapest.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from toolchain.core.errors import EngineError
from toolchain.core.session import Session
from toolchain.engines.shared.batching import Batching

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: Shapes, (rows, tokens), that tell the three costs apart.
SHAPES = ((1, 8), (1, 16), (1, 64), (2, 16), (4, 16), (4, 64), (8, 16), (8, 32), (16, 16), (16, 32), (32, 32), (8, 128))

#: Batches of rows of this length tell the token budget.
BUDGET_LENGTH = 32
BUDGET_ROWS = (8, 16, 32, 64, 128, 256)

#: A batch that takes longer is the last one, once so many were run.
SLOW_S = 1.0
LEAST_SHAPES = 8

#: How much more than in the cheapest batch a cell may cost.
TOLERANCE = 0.05

#: An attention length so large that it plays no part, for engines where none can be told.
NO_ATTENTION = 65536.0

#: The least ``call``: where none can be told, any split is as good, and this one makes no needless batches.
LEAST_CALL = 1.0


def measure(session: Session, max_length: int, rounds: int = 7) -> dict[tuple[int, int], float]:
    """Times an engine at every shape.

    Args:
        session: The engine.
        max_length: The most tokens that the model takes; longer shapes are left out.
        rounds: Times each shape is run; the fastest counts, because what disturbs only makes slower.

    Returns:
        Seconds by shape.

    Raises:
        EngineError: The engine tokenizes by itself, so that no shape can be asked of it.
    """
    if "input_ids" not in session.inputs:
        raise EngineError(f"the engine reads {', '.join(session.inputs)}; its batches have no shape to time")
    wanted = {*SHAPES, *((rows, BUDGET_LENGTH) for rows in BUDGET_ROWS)}
    batches = {}
    for shape in sorted((shape for shape in wanted if shape[1] <= max_length), key=lambda shape: shape[0] * shape[1]):
        batches[shape] = _batch(session, *shape)
        started = time.perf_counter()
        session.run(batches[shape])
        if len(batches) >= LEAST_SHAPES and time.perf_counter() - started > SLOW_S:
            break  # the larger ones would tell the budget of batches that nobody waits for
    found = dict.fromkeys(batches, float("inf"))
    for _, (shape, batch) in itertools.product(range(rounds), batches.items()):
        started = time.perf_counter()
        session.run(batch)
        found[shape] = min(found[shape], time.perf_counter() - started)
    return found


def fit(times: Mapping[tuple[int, int], float]) -> Batching:
    """The batching that measured times speak for.

    Args:
        times: Seconds by shape, (rows, tokens); at least three shapes.
    """
    shapes, seconds = np.array(list(times), dtype=np.float64), np.array(list(times.values()))
    rows, tokens = shapes.T
    columns = np.stack([np.ones_like(rows), rows * tokens, rows * tokens**2], axis=1) / seconds[:, None]
    call, token, square = _nonnegative(columns)
    cells = {r * n: s / (r * n) for (r, n), s in times.items() if n == BUDGET_LENGTH and r in BUDGET_ROWS}
    allowed = min(cells.values(), default=0) * (1 + TOLERANCE)
    budget = max((count for count, cost in cells.items() if cost <= allowed), default=Batching().token_budget)
    return Batching(
        call=max(call / token, LEAST_CALL),
        attention=token / square if square else NO_ATTENTION,
        token_budget=budget,
    )


def _nonnegative(columns: NDArray[np.float64]) -> list[float]:
    """Solves ``columns · x ≈ 1`` for x ≥ 0: the best of the solutions that leave some of its columns out."""
    best, least = [0.0] * columns.shape[1], float("inf")
    for used in _subsets(range(columns.shape[1])):
        if 1 not in used:  # a token always costs something
            continue
        solution = np.linalg.lstsq(columns[:, used], np.ones(len(columns)), rcond=None)[0]
        error = float(np.square(columns[:, used] @ solution - 1).sum())
        if (solution >= 0).all() and error < least:
            best, least = [0.0] * columns.shape[1], error
            for index, value in zip(used, solution, strict=True):
                best[index] = float(value)
    return best


def _subsets(columns: Sequence[int]) -> list[list[int]]:
    sizes = range(1, len(columns) + 1)
    return [list(chosen) for size in sizes for chosen in itertools.combinations(columns, size)]


def _batch(session: Session, rows: int, tokens: int) -> dict[str, NDArray[np.int64]]:
    values = np.random.default_rng(rows * tokens).integers(5, 100, (rows, tokens))
    known = {"input_ids": values, "attention_mask": np.ones_like(values), "token_type_ids": np.zeros_like(values)}
    return {name: known[name] for name in session.inputs}
