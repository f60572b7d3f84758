"""The seam between an engine and whoever runs it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    #: What an engine gives for a batch: arrays by the names that the kind of task has for its outputs, a row of each
    #: for each row of the batch.
    Outputs = dict[str, NDArray[np.float32]]

#: Inputs that an encoder's graph may have, in the order of its signature; each ``[batch, tokens]``.
INPUTS = ("input_ids", "attention_mask", "token_type_ids")

#: The one input of an engine that tokenizes by itself.
TEXT_INPUT = "text"


class Session(Protocol):
    """A loaded engine.

    Attributes:
        inputs: Names of the inputs that it reads, of ``input_ids``, ``attention_mask``, ``token_type_ids``; or ``text``
            alone, where the engine tokenizes by itself.
    """

    inputs: tuple[str, ...]

    def run(self, batch: Mapping[str, NDArray[Any]]) -> Outputs:
        """Return the outputs of one padded batch.

        Args:
            batch: Every input in ``inputs``, each ``[batch, tokens]`` int64; ``text`` is ``[batch]``, of str.

        Returns:
            Each output by name, ``[batch, …]`` float32: ``logits`` ``[batch, labels]`` of a classifier.
        """
        ...

    def placement(self) -> dict[str, int]:
        """How many graph nodes ran on each provider or device, e.g. ``{"CPUExecutionProvider": 120}``."""
        ...


@runtime_checkable
class ConcurrentSession(Session, Protocol):
    """A loaded engine that gains by computing several batches at a time, e.g. one on each core.

    ``run_many`` keeps to the threads that the session was opened with: however many batches are under way, no more than
    those compute. What it answers is what ``run`` answers for each batch, up to rounding, whatever it is handed over
    with, so that a caller may hand over all that it has, in pieces or at once. Batches differ in rows and tokens, and
    one batch alone, or none, is allowed. When one of them fails, its error is raised, and the session can be used
    again. Callers may be in several threads.

    Attributes:
        concurrency: Batches that it computes at a time, for whoever divides work; 1 where it is better left whole.
    """

    concurrency: int

    def run_many(self, batches: Sequence[Mapping[str, NDArray[Any]]]) -> list[Outputs]:
        """Return the outputs of several padded batches.

        Args:
            batches: What ``run`` takes, each; best the most expensive first, so that the last ones end together. They
                are read only, and not kept.

        Returns:
            What ``run`` gives for each, in the order of the batches; the caller's own from then on.
        """
        ...
