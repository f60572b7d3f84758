"""What a ``sensitivity.json`` may hold: a stranger may have written it, so each value is checked when it is read."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, model_validator

from toolchain.core import documents, limits
from toolchain.core.data import CLASSIFICATION
from toolchain.core.errors import StoreError
from toolchain.core.schema import first_problem

#: The version that is written, and the only one that is read.
VERSION = 1

_HINT = "measure again: toolchain sensitivity CHECKPOINT"

_Number = Annotated[float, Field(allow_inf_nan=False)]
_Positive = Annotated[float, Field(allow_inf_nan=False, gt=0)]
_Count = Annotated[int, Field(ge=0, le=2**62)]
_Size = Annotated[int, Field(ge=1, le=2**31)]
_Table = Annotated[dict[Annotated[str, Field(pattern=r"^\d{1,9}$")], _Number], Field(min_length=1)]


class _Part(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore")


class _Shape(_Part):
    model_config = ConfigDict(strict=True, extra="forbid")


class _Dense(_Part):
    accuracy: Annotated[float, Field(ge=-1, le=1)]
    loss: _Number
    examples: _Count
    mean_tokens: _Positive
    parameters: _Size
    bytes: Annotated[int, Field(ge=1, le=2**62)]
    flops: Annotated[int, Field(ge=1, le=2**62)]


class _Layer(_Shape):
    runs: _Size
    hidden: _Size
    heads: _Size
    head_size: _Size
    neurons: _Size
    ranks: dict[str, _Count] = {}


class _Tables(_Shape):
    tokens: _Size
    width: _Size
    others: _Count
    rank: _Count
    factors: bool


class _Row(_Part):
    technique: Literal["sparsity", "heads", "ffn", "rank", "bits"]
    layer: _Count | Literal["embedding"]
    part: str
    setting: _Number
    kept: Annotated[float, Field(allow_inf_nan=False, ge=0)]
    accuracy: Annotated[float, Field(ge=-1, le=1)]
    loss: _Number
    loss_increase: _Number
    loss_increase_error: _Number
    divergence: _Number
    flips: _Count
    parameters: _Number
    bytes: _Number
    flops: _Number


class _Settings(_Part):
    multiple_of: _Size
    criterion: Literal["obs", "magnitude"]


class _Times(_Part):
    layer: _Number
    heads: _Table
    neurons: _Table
    depth: _Count


class _Record(_Part):
    version: Literal[1]
    checkpoint: str | None
    task: Annotated[dict[str, dict[str, JsonValue]], Field(min_length=1, max_length=1)]
    settings: _Settings
    dense: _Dense
    layers: list[_Layer]
    tables: _Tables
    rows: list[_Row]
    time: _Times | None
    notes: list[str] = []
    kind: str = CLASSIFICATION

    @model_validator(mode="after")
    def _fits(self) -> Self:
        """Hold sizes to the limits of models, and the layers of rows to those that there are."""
        most = {name: limits.limit(name) for name in ("layers", "hidden_size", "vocabulary")}
        if not 1 <= len(self.layers) <= most["layers"]:
            raise ValueError(f"{len(self.layers)} layers; allowed are 1 to {most['layers']}")
        for layer in self.layers:
            if max(layer.heads, layer.hidden, layer.neurons // 8) > most["hidden_size"]:
                raise ValueError(f"a layer is wider than {most['hidden_size']}")
        if self.tables.tokens > most["vocabulary"]:
            raise ValueError(f"{self.tables.tokens} tokens; at most {most['vocabulary']} are allowed")
        beyond = [row.layer for row in self.rows if isinstance(row.layer, int) and row.layer >= len(self.layers)]
        if beyond:
            raise ValueError(f"a row is of layer {beyond[0]}, and there are {len(self.layers)}")
        return self


def read(path: Path) -> dict[str, Any]:
    """Return what a ``sensitivity.json`` holds.

    Raises:
        StoreError: It is not what a sensitivity writes; the message names the place.
    """
    try:
        value = documents.read_object(path, StoreError, _HINT, "give what 'toolchain sensitivity' has written")
        _Record.model_validate(value)
    except ValidationError as error:
        raise StoreError(f"{path} is not a sensitivity: {first_problem(error)}", _HINT) from error
    return value
