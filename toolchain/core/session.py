"""The seam between an engine and whoever runs it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Session(Protocol):
    """A loaded engine.

    Attributes:
        inputs: Names of the inputs that it reads, of ``input_ids``, ``attention_mask``, ``token_type_ids``.
    """

    inputs: tuple[str, ...]

    def run(self, batch: Mapping[str, NDArray[np.int64]]) -> NDArray[np.float32]:
        """Logits of one padded batch.

        Args:
            batch: Every input in ``inputs``, each ``[batch, tokens]`` int64.

        Returns:
            Logits, ``[batch, labels]`` float32.
        """
        ...

    def placement(self) -> dict[str, int]:
        """How many graph nodes ran on each provider or device, e.g. ``{"CPUExecutionProvider": 120}``."""
        ...
