"""A ``sensitivity.json`` of a stranger ends in an allocation or in a sentence, whatever was changed in it."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.layers.test_allocation import UNITS
from toolchain.core.errors import StoreError, ToolchainError
from toolchain.deliver import layers
from toolchain.deliver.allocate import as_json, recipe
from toolchain.layers import sensitivity_file
from toolchain.layers.allocation import allocate, chosen, uniform
from toolchain.layers.prices import Measure

ROW = {"accuracy": 0.9, "loss": 0.2, "loss_increase_error": 0.01, "flips": 1, "parameters": 8, "bytes": 32, "flops": 4}
TIMES = {"layer": 0.3, "heads": {"1": 0.1, "2": 0.15, "4": 0.2}, "neurons": {"8": 0.02, "32": 0.1}, "depth": 3}
WHOLE: dict[str, Any] = {
    **UNITS,
    "dense": {**UNITS["dense"], "parameters": 1000},
    "rows": [{**ROW, **row} for row in UNITS["rows"]],
    "time": TIMES,
    "notes": [],
}

#: What every place of the file is changed to, one after the other.
WRONG: tuple[Any, ...] = (None, True, -1, 0, 10**30, 0.5, float("nan"), "", "heads", [], {"a": 1})


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place of a JSON value; of a list the first."""
    yield at
    inner = value.items() if isinstance(value, dict) else enumerate(value[:1]) if isinstance(value, list) else ()
    for key, part in inner:
        yield from places(part, (*at, key))


def changed(at: tuple[Any, ...], value: Any) -> Any:
    whole = copy.deepcopy(WHOLE)
    part = whole
    for key in at[:-1]:
        part = part[key]
    if value is KeyError:
        del part[at[-1]]
    else:
        part[at[-1]] = value
    return whole


def use(path: Path) -> None:
    """What ``allocate`` and ``explain`` do with it."""
    record = sensitivity_file.read(path)
    list(layers.tables(record))
    measures: tuple[Measure, ...] = ("size", "flops", "time")
    for measure in measures:
        try:
            names = chosen(record, measure)
            found = allocate(record, measure, 0.6, names)
            alike = uniform(record, measure, 0.6, names)
            as_json(record, found, alike)
            recipe(record, found, alike, "model", "name")
        except ToolchainError:
            continue


def test_a_sensitivity_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "sensitivity.json"
    path.write_text(json.dumps(WHOLE))
    assert sensitivity_file.read(path) == WHOLE


def test_every_change_of_one_place_is_refused_or_means_something(tmp_path: Path) -> None:
    path, refused = tmp_path / "sensitivity.json", 0
    cases = [(at, value) for at in places(WHOLE) if at for value in (KeyError, *WRONG)]
    assert len(cases) > 500
    for at, value in cases:
        path.write_text(json.dumps(changed(at, value)))
        try:
            use(path)
        except StoreError:
            refused += 1
    assert refused > len(cases) / 2


def test_a_technique_may_be_measured_of_some_layers_alone(tmp_path: Path) -> None:
    path = tmp_path / "sensitivity.json"
    for layer in range(3):
        for technique in ("heads", "ffn"):
            rows = [row for row in WHOLE["rows"] if (row["layer"], row["technique"]) != (layer, technique)]
            path.write_text(json.dumps({**WHOLE, "rows": rows}))
            use(path)


def test_what_is_wrong_is_named_by_its_place(tmp_path: Path) -> None:
    path = tmp_path / "sensitivity.json"
    for at, value, says in (
        (("layers", 0, "neurons"), 0, "layers.0.neurons: Input should be greater than or equal to 1"),
        (("layers", 0, "neurons"), 10**7, "a layer is wider than 32768"),
        (("rows", 1, "layer"), 3, "a row is of layer 3, and there are 3"),
        (("rows", 1, "divergence"), None, "rows.1.divergence: Input should be a valid number"),
    ):
        path.write_text(json.dumps(changed(at, value)))
        with pytest.raises(StoreError, match=f"is not a sensitivity: .*{says}"):
            sensitivity_file.read(path)
