"""What the loss of a student is made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from toolchain.core.stage import Ge, StageConfig


@dataclass(frozen=True, kw_only=True)
class Losses(StageConfig):
    """Weights of what the loss is made of; 0 leaves a part out.

    Attributes:
        labels: The training labels.
        logits: The teacher's answers (response).
        hidden: The layers' outputs (feature, layer-wise).
        embeddings: What the first layer reads.
        attention: Attention maps (attention transfer).
        relations: Relations of queries, keys and values in the last layer.
    """

    labels: Annotated[float, Ge(0)] = 0.2
    logits: Annotated[float, Ge(0)] = 0.8
    hidden: Annotated[float, Ge(0)] = 0.0
    embeddings: Annotated[float, Ge(0)] = 0.0
    attention: Annotated[float, Ge(0)] = 0.0
    relations: Annotated[float, Ge(0)] = 0.0

    def __post_init__(self) -> None:
        if not self.labels and not self.logits:
            raise ValueError("with neither labels nor logits the classifier learns nothing; give one of them")

    @property
    def inside(self) -> dict[str, float]:
        """Those that look inside, by name."""
        return {name: getattr(self, name) for name in ("hidden", "embeddings", "attention", "relations")}
