"""What ``report.json`` may hold: a report may come from a stranger, and every reader of one trusts what this lets pass.

Reports of earlier versions lack parts; none has other types. Figures of a line have names of their own for every batch
size, so that those are held by kind: a number, a word or nothing.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, TypeGuard

from pydantic import BaseModel, ConfigDict, Field, JsonValue, StringConstraints, ValidationError, model_validator

from toolchain.core import documents
from toolchain.core.errors import ToolchainError
from toolchain.core.schema import first_problem

#: The most that a text of a report has, in characters, and the most engines.
TEXT, ENGINES = 20_000, 5_000

#: Names of figures.
_NAME = re.compile(r"[a-z][a-z0-9_]{0,99}")

Text = Annotated[str, StringConstraints(max_length=TEXT)]
Number = Annotated[float, Field(allow_inf_nan=False, ge=-1e300, le=1e300)]
#: A time, a rate or a ratio: above nothing, and such that no axis runs over.
Positive = Annotated[float, Field(allow_inf_nan=False, ge=1e-12, le=1e15)]
Count = Annotated[int, Field(ge=0, le=2**63)]
Figure = bool | int | Number | Text | None
Figures = dict[Annotated[str, StringConstraints(max_length=100)], JsonValue]


#: What is timed, and what is in percent or points.
_MEASURED, _SHARES = ("speedup_", "per_s_", "latency_"), ("accuracy_",)


def _numeric(value: object) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _plausible(value: object) -> bool:
    return _numeric(value) and (value == 0 or 1e-12 <= value <= 1e15)


class _Part(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore")


class _Gate(_Part):
    gate: Text
    passed: bool | None
    evidence: Text
    reason: Text | None = None
    label: bool = False


class _Latency(_Part):
    p50_ms: Positive
    p90_ms: Positive
    p99_ms: Positive
    rounds_ms: list[Positive] = []


class _Rate(_Part):
    median_per_s: Positive
    rounds_per_s: list[Positive] = []


class _Times(_Part):
    """Times by what is timed; rates by batch size, order of the texts, and what is timed."""

    latency: dict[Text, _Latency] = {}
    throughput: dict[Text, dict[Text, dict[Text, _Rate]]] = {}


class _Timing(_Part):
    settings: _Times | None = None


class _Line(_Part):
    model_config = ConfigDict(strict=True, extra="allow")
    __pydantic_extra__: dict[str, Figure]

    name: Text
    model: Text
    variant: Text
    engine: Text
    seed: int
    baseline: bool
    rank: Count | None = None
    rank_low: Count | None = None
    rank_high: Count | None = None
    examples: Count | None = None
    accuracy_percent: Annotated[float, Field(ge=-100, le=100)] | None
    size_mb: Positive | None
    compression: Positive | None = None
    score: Number | None = None
    error: Text | None = None
    engine_key: Text | None = None
    marks: list[Text]
    barred: list[Text] | None = None
    techniques: list[Text] = []
    standing: list[Text] = []
    settings: Figures | None = None
    gates: list[_Gate] = []
    timing: _Timing | None = None

    @model_validator(mode="after")
    def _figures(self) -> _Line:
        for name, value in (self.__pydantic_extra__ or {}).items():
            if not _NAME.fullmatch(name):
                raise ValueError(f"{name[:60]!r} is not the name of a figure: small letters, digits and _")
            if name.startswith(_MEASURED) and not (value is None or _plausible(value)):
                raise ValueError(f"{name}: {str(value)[:60]!r} is not a number above 0")
            if name.startswith(_SHARES) and not (value is None or (_numeric(value) and abs(value) <= 100)):
                raise ValueError(f"{name}: {str(value)[:60]!r} is not a number of at most 100")
        ends = [(self.__pydantic_extra__ or {}).get(f"accuracy_percent_{end}") for end in ("low", "high")]
        if self.accuracy_percent is not None and not all(_numeric(end) for end in ends):
            raise ValueError("accuracy_percent_low and accuracy_percent_high, its interval, are missing")
        return self


class _Choice(_Part):
    name: Text
    reason: Text
    goal: Text


class _Absent(_Part):
    name: Text
    reason: Text


class _Failed(_Part):
    name: Text
    error: Text


class _Scenario(_Part):
    scenario: Text
    name: Text | None
    reasons: list[Text]


class _Winner(_Part):
    name: Text
    tied: list[Text] | None = None
    share: Number | None = None


class _Front(_Part):
    model: Text
    seed: int
    engines: list[Text]


class _Weights(_Part):
    accuracy: Number
    compression: Number
    speedup: Number


class _Made(_Part):
    command: Text | None = None
    platform: Text | None = None
    commit: Text | None = None
    versions: dict[str, Text] | None = None
    instruction_sets: list[Text] | None = None


class _Machine(_Part):
    model_config = ConfigDict(strict=True, extra="allow")
    __pydantic_extra__: dict[str, Figure | list[Text]]

    cpu: Text | None = None
    physical_cores: Count | None = None
    cpu_quota: Number | None = None
    memory_gib: Number | None = None
    gpus: list[Text] | None = None
    system: Text | None = None


class _Settings(_Part):
    threads: Count | None = None
    rounds: Count | None = None
    sample: Count | None = None
    seed: int | None = None


class _Pooled(_Part):
    model_config = ConfigDict(strict=True, extra="allow")
    __pydantic_extra__: dict[str, Figure]

    name: Text
    baseline: bool
    seeds: list[int]
    barred: list[Text] = []


class _Span(_Part):
    low: Count
    high: Count
    examples: Count


class _Cell(_Part):
    accuracy_percent: Number | None
    latency_ms: Number | None


class _Lengths(_Part):
    of: Text
    groups: list[_Span]
    engines: list[list[_Cell]]

    @model_validator(mode="after")
    def _whole(self) -> _Lengths:
        if any(len(cells) != len(self.groups) for cells in self.engines):
            raise ValueError("every engine needs a cell for each group of lengths")
        return self


class _Metric(_Part):
    name: Annotated[str, StringConstraints(min_length=1, max_length=100)]
    unit: Annotated[str, StringConstraints(max_length=20)]
    binary: bool


class _Report(_Part):
    name: Text
    metric: _Metric | None = None
    split: Text
    weights: _Weights
    speedup: Text
    margin: Number | None = None
    lines: Annotated[list[_Line], Field(max_length=ENGINES)]
    recommendations: list[_Choice]
    not_applicable: list[_Absent]
    not_run: list[_Absent] = []
    failed: list[_Failed]
    notes: list[Text]
    machine: _Machine | None = None
    settings: _Settings | None = None
    made: _Made | None = None
    test_set: Text | None = None
    scenarios: list[_Scenario] | None = None
    winner: _Winner | None = None
    fronts: list[_Front] | None = None
    pooled: list[_Pooled] | None = None
    lengths: _Lengths | None = None
    limits: Figures | None = None
    rule: Text | None = None

    @model_validator(mode="after")
    def _fits(self) -> _Report:
        if self.lengths and len(self.lengths.engines) != len(self.lines):
            raise ValueError(f"lengths: {len(self.lengths.engines)} engines, and the report has {len(self.lines)}")
        return self


def report(text: str) -> dict[str, Any]:
    """Return the report that a text holds.

    Args:
        text: JSON.

    Raises:
        ValueError: It is no JSON, or not what a report holds; the message names the place.
    """
    try:
        value = documents.parse_json(text, "it", ToolchainError, finite=True)
    except ToolchainError as error:
        raise ValueError(error.message) from error
    try:
        _Report.model_validate(value)
    except ValidationError as error:
        more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
        raise ValueError(f"{first_problem(error)}{more}") from error
    return dict(value)
