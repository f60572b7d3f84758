"""What ``evaluation.json`` and ``timing.json`` may hold; a store may come from a stranger, digests and all."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, model_validator

from toolchain.core import documents, registry
from toolchain.core.data import CLASSIFICATION
from toolchain.core.errors import StoreError
from toolchain.core.schema import first_problem

_Model = TypeVar("_Model", bound="_Part")
Number = Annotated[float, Field(allow_inf_nan=False)]
Positive = Annotated[float, Field(allow_inf_nan=False, gt=0)]
Count = Annotated[int, Field(ge=0, le=2**62)]


#: What every comparison of two engines counts.
_COMPARED = ("examples", "flips", "ties", "non_finite")


class _Part(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore")


class _Right(_Part):
    examples: Count | None = None
    correct: Count | None = None
    score: Number | None = None
    accuracy: Annotated[float, Field(ge=0, le=1)] | None = None


class _Changes(_Part):
    flips: Count
    ties: Count
    indices: list[Count]


class _Batches(_Changes):
    sizes: Annotated[list[Count], Field(min_length=2)]


class _Paddings(_Changes):
    pad_to: Count


class _Invariance(_Part):
    answers: Annotated[list[str], Field(min_length=2, max_length=2)] = ["label", "labels"]
    batch: _Batches
    padding: _Paddings | None
    examples: Count
    of: Annotated[int, Field(ge=1, le=2**62)]
    safe: bool
    change: Number
    least_left: Number | None


class _Parity(_Part):
    answers: Annotated[list[str], Field(min_length=2, max_length=2)] = ["label", "labels"]
    passed: bool | None
    examples: Count | None = None
    flips: Count | None = None
    ties: Count | None = None
    agreement: Number | None = None
    max_difference: float | None = None
    non_finite: Count | None = None
    reason: Annotated[str, Field(min_length=1)] | None = None
    evidence: str | None = None
    introduced_by: str | None = None
    first: str | None = None

    @model_validator(mode="after")
    def _whole(self) -> _Parity:
        needed = ("reason",) if self.passed is None else () if self.evidence is not None else _COMPARED
        missing = [name for name in needed if getattr(self, name) is None]
        if self.passed is not None and self.evidence is None and "max_difference" not in self.model_fields_set:
            missing.append("max_difference")
        if missing:
            raise ValueError(f"{', '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing")
        return self


class _Saturation(_Part):
    pairs: Count
    risky: Count
    saturated: Count
    results: Count
    worst: str | None

    @model_validator(mode="after")
    def _whole(self) -> _Saturation:
        if self.risky and not self.results:
            raise ValueError("results is 0, and there are risky pairs")
        return self


class _Isa(_Part):
    measured_on: list[str]
    wide: bool
    int8: bool
    saturation: _Saturation | None = None
    switch: str | None = None
    run: _Parity | None = None


class _Evaluation(_Part):
    splits: dict[str, _Right]
    labels: dict[str, list[Number | list[JsonValue]]]
    kind: str = CLASSIFICATION
    scores: dict[str, list[list[Number]]] = {}
    tokens: dict[str, list[Count]] = {}
    groups: dict[str, list[int] | None] = {}
    label_names: list[str] = []
    notes: list[str] = []
    parity: _Parity | None = None
    invariance: _Invariance | None = None
    isa: _Isa | None = None
    placement: dict[str, Count] | None = None
    int8_products: Annotated[list[Count | None], Field(min_length=2, max_length=2)] | None = None
    size_bytes: Count | None = None
    zstd_bytes: Count | None = None
    parameters: Count | None = None
    flops_per_example: Number | None = None

    @model_validator(mode="after")
    def _of_kind(self) -> _Evaluation:
        if self.kind not in registry.names("kinds"):
            raise ValueError(f"kind: {self.kind!r} is not a kind of task")
        if name := next((name for name, rows in self.scores.items() if len(set(map(len, rows))) > 1), ""):
            raise ValueError(f"scores.{name}: examples have different numbers of scores")
        for name, gold in self.labels.items() if self.kind == CLASSIFICATION else ():
            at = next(
                (at for at, label in enumerate(gold) if not (isinstance(label, (int, float)) and label == int(label))),
                None,
            )
            if at is not None:
                raise ValueError(f"labels.{name}.{at}: {gold[at]} is not the index of a label")
        return self


class _Timed(_Part):
    rounds_ms: list[Positive] = []
    rounds_per_s: list[Positive] = []
    p50_ms: Positive | None = None
    p90_ms: Positive | None = None
    p99_ms: Positive | None = None
    median_per_s: Positive | None = None
    spread: Number | None = None


class _Settings(_Part):
    latency: dict[str, _Timed]
    throughput: dict[str, dict[str, dict[str, _Timed]]] = {}


class _Energy(_Part):
    latency: dict[str, dict[str, Number]]
    throughput: dict[str, dict[str, dict[str, dict[str, Number]]]] = {}


class _Engine(_Part):
    error: str | None = None
    load_s: Number | None = None
    peak_memory_bytes: Count | None = None
    energy_j: _Energy | None = None
    settings: _Settings | None = None


class _Timing(_Part):
    engines: dict[str, _Engine] = {}
    machine: dict[str, JsonValue] | None = None
    threads: Count | None = None
    rounds: Count | None = None
    sample: Count | None = None
    seed: int | None = None


def evaluation(path: Path) -> dict[str, Any]:
    """Return what an ``evaluation.json`` holds.

    Raises:
        StoreError: It is not what a measurement writes; the message names the place.
    """
    return _read(path, _Evaluation)


def timing(path: Path) -> dict[str, Any]:
    """Return what a ``timing.json`` holds.

    Raises:
        StoreError: It is not what a measurement writes; the message names the place.
    """
    return _read(path, _Timing)


def _read(path: Path, model: type[_Model]) -> dict[str, Any]:
    hint = "'toolchain verify' finds what was changed; measure it again with --force"
    try:
        value = documents.read_object(path, StoreError, hint, hint)
        model.model_validate(value)
    except ValidationError as error:
        raise StoreError(f"{path} is not what a measurement writes: {first_problem(error)}", hint) from error
    return value
