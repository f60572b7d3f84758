from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from toolchain.core.errors import RecipeError
from toolchain.layers.allocation import Allocation, allocate, chosen, uniform
from toolchain.layers.costs import MATRICES, LayerSize, TableSize
from toolchain.layers.prices import Measure, Prices
from toolchain.optimize.weight_only.packing import stored_bytes

#: A layer of 4 · 16² numbers in its attention and 2 · 16 · 32 in its FFN, 2048, and 3 · 16 + 32 in biases that may go.
SIZE = LayerSize(runs=1, hidden=16, heads=4, head_size=4, neurons=32)
TABLES = TableSize(tokens=100, width=16, others=64, rank=0, factors=True)
TOKENS = 10

#: Numbers that nothing here touches: normalizations, biases of outputs, a classifier.
REST = 200
BYTES = 4 * (3 * (2048 + 80) + 100 * 16 + 64 + REST)

#: 2 · 10 tokens · 2048 numbers, and 4 · 10² · 16 for the products inside attention.
LAYER_FLOPS = 2 * TOKENS * 2048 + 4 * TOKENS**2 * 16
FLOPS = 3 * LAYER_FLOPS + 500


def record(*losses: Mapping[str, float], time: dict[str, Any] | None = None) -> dict[str, Any]:
    """A sensitivity of three layers.

    Args:
        losses: What each layer's strongest setting costs, by technique; the weaker one of 0.5 costs a quarter of it.
        time: A table of times.
    """
    rows: list[dict[str, Any]] = []

    def add(technique: str, layer: int | str, part: str, setting: float, kept: int, loss: float) -> None:
        named = {"technique": technique, "layer": layer, "part": part, "setting": setting, "kept": kept}
        rows.append({**named, "divergence": loss, "loss_increase": -loss})

    for layer, own in enumerate(losses):
        for technique, loss in own.items():
            if technique == "heads":
                add("heads", layer, "heads", 0.5, 2, loss / 4)
                add("heads", layer, "heads", 0.75, 1, loss)
            elif technique == "ffn":
                add("ffn", layer, "ffn", 0.5, 16, loss / 4)
                add("ffn", layer, "ffn", 0.75, 8, loss)
            elif technique == "rank":
                for name in MATRICES:
                    add("rank", layer, name, 0.5, 4, loss / 6)
            elif technique == "sparsity":
                add("sparsity", layer, "layer", 0.5, 1024, loss / 4)
                add("sparsity", layer, "layer", 0.9, 205, loss)
            else:
                add("bits", layer, "layer", 8, 8, loss / 4)
                add("bits", layer, "layer", 4, 4, loss)
                add("bits", layer, "layer", 2, 2, 100.0)
    if "bits" in losses[0]:
        add("bits", "embedding", "layer", 8, 8, 0.01)
        add("bits", "embedding", "layer", 4, 4, 0.2)
    return {
        "version": 1, "checkpoint": "0" * 32, "task": {"reviews": {}}, "time": time, "rows": rows,
        "settings": {"multiple_of": 4, "criterion": "obs"},
        "dense": {"bytes": BYTES, "flops": FLOPS, "mean_tokens": 9.8, "accuracy": 1.0, "loss": 0.1, "examples": 8},
        "layers": [SIZE.record()] * 3, "tables": TABLES.record(),
    }  # fmt: skip


UNITS = record({"heads": 0.4, "ffn": 0.8}, {"heads": 0.0, "ffn": 0.0}, {"heads": 4.0, "ffn": 1.6})


def of(found: dict[str, Any], measure: Measure, share: float, *names: str) -> tuple[Allocation, Allocation]:
    techniques = chosen(found, measure, names or None)
    alike = uniform(found, measure, share, techniques)
    assert alike is not None
    return allocate(found, measure, share, techniques), alike


def test_what_costs_nothing_goes_first_and_as_far_as_it_was_measured() -> None:
    # The layer that costs nothing loses 3 of 4 heads (3/4 of 4 · 16² numbers and of the products) and 24 of 32 neurons.
    saved = 2 * TOKENS * (768 + 768) + 4 * TOKENS**2 * 12
    share = 1 - saved / FLOPS
    found, alike = of(UNITS, "flops", share + 1e-3)
    assert found.layers == ({}, {"heads": 1.0, "neurons": 8.0}, {})
    assert found.cost == 0.0
    assert found.left == pytest.approx(share, abs=1e-12)
    assert alike.cost > 0


@pytest.mark.parametrize("share", [0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.35])
@pytest.mark.parametrize("measure", ["flops", "size"])
def test_it_costs_no_more_than_one_setting_for_all_layers_and_keeps_to_the_budget(
    measure: Measure, share: float
) -> None:
    heavy = record(
        *({"heads": h, "ffn": f, "bits": b} for h, f, b in ((0.4, 0.8, 0.1), (0.1, 0.2, 0.9), (4, 1.6, 0.3)))
    )
    found, alike = of(heavy, measure, share, "heads", "ffn", *(["bits"] if measure == "size" else []))
    assert found.left <= share
    assert alike.left <= share + 1e-9
    assert found.cost < alike.cost
    prices = Prices(heavy, measure)
    assert found.left == pytest.approx(prices.left(found.layers, found.tables))
    assert found.cost == pytest.approx(prices.costs(found.layers, found.tables))


def test_between_two_measured_settings_the_cost_is_interpolated_and_never_falls() -> None:
    prices = Prices(UNITS, "flops")
    # 0.4 with one head left, 0.1 with two, 0 with all four.
    assert [prices.cost(0, "heads", n) for n in (4, 3, 2, 1)] == pytest.approx([0.0, 0.05, 0.1, 0.4])
    assert prices.cost(0, "neurons", 12) == pytest.approx((0.2 + 0.8) / 2)
    odd = record(*[{"heads": 0.4}] * 3)
    for row in odd["rows"]:
        row["divergence"] = {2: 0.3, 1: -0.2}[row["kept"]]
    assert [Prices(odd, "flops").cost(0, "heads", n) for n in (2, 1)] == pytest.approx([0.3, 0.3])
    for row in odd["rows"]:
        row["divergence"] = -0.1
    assert Prices(odd, "flops").cost(1, "heads", 1) == 0.0


def test_of_settings_that_cost_the_same_the_one_that_leaves_more_is_taken() -> None:
    free = record(*[{"heads": 0.0, "ffn": 0.0}] * 3)
    found, _ = of(free, "flops", 0.8)
    assert 0.8 - 0.02 < found.left <= 0.8


def test_ranks_stand_where_no_units_leave() -> None:
    both = record(*({"heads": h, "ffn": 9.0, "rank": 0.06} for h in (0.0, 9.0, 9.0)))
    found, _ = of(both, "flops", 0.62, "heads", "ffn", "rank")
    for own in found.layers:
        assert not ("heads" in own and {f"rank {name}" for name in ("query", "key", "value", "output")} & set(own))
        assert "neurons" not in own
    assert found.layers[0]["heads"] == 1.0
    assert any("rank ffn_in" in own for own in found.layers)


def test_sparsity_and_bits_act_on_what_is_left() -> None:
    everything = record(*[{"heads": 1.0, "ffn": 1.0, "sparsity": 1.0, "bits": 1.0}] * 3)
    prices = Prices(everything, "size")
    settings = {"heads": 1.0, "neurons": 8.0, "sparsity": 0.5, "bits": 4.0}
    # A quarter of 2048 numbers is left, half of them not zero, 4 bits each and their scales; and 3 · 4 + 8 biases.
    assert prices.of_layer(0, settings) == pytest.approx(512 / 2 * stored_bytes(4) + 4 * 20)
    assert prices.of_tables({"bits": 8}) == pytest.approx((100 * 16 + 64) * stored_bytes(8))
    assert prices.left([{}] * 3, {}) == pytest.approx(1.0)
    found, _ = of(everything, "size", 0.2, "bits", "sparsity", "heads", "ffn")
    assert all(own["bits"] in (4, 8) for own in found.layers), "no pass carries out 2 bits"


def test_sparsity_is_never_taken_unless_it_is_asked_for() -> None:
    everything = record(*[{"heads": 1.0, "sparsity": 0.0, "bits": 1.0}] * 3)
    assert chosen(everything, "size") == ("heads", "bits")
    assert chosen(everything, "flops") == ("heads",)
    assert chosen(everything, "flops", ["sparsity", "heads"]) == ("heads", "sparsity")


def test_a_budget_of_time_reads_the_table() -> None:
    table = {"layer": 0.3, "depth": 3, "heads": {"1": 0.09, "2": 0.06, "4": 0.0}, "neurons": {"8": 0.15, "32": 0.0}}
    timed = record(*({"heads": h, "ffn": f} for h, f in ((0.4, 0.8), (0.0, 0.0), (4.0, 1.6))), time=table)
    found, alike = of(timed, "time", 0.77)
    # The free layer saves 0.09 + 0.15 of the time, and nothing else has to leave.
    assert found.layers == ({}, {"heads": 1.0, "neurons": 8.0}, {})
    assert found.left == pytest.approx(1 - 0.24)
    assert alike.left <= 0.77
    with pytest.raises(RecipeError, match=r"the strongest settings that were measured leave 0\.2800"):
        allocate(timed, "time", 0.2, ("heads", "ffn"))  # 1 - 3 · 0.24


def test_what_cannot_be_had_is_said_with_what_can() -> None:
    least = (500 + 3 * (2 * TOKENS * 512 + 4 * TOKENS**2 * 4)) / FLOPS  # one head and 8 neurons in each layer
    with pytest.raises(
        RecipeError, match=f"0.1 of the FLOPs cannot be had with heads, ffn: .* leave {least:.4f}"
    ) as caught:
        allocate(UNITS, "flops", 0.1, ("heads", "ffn"))
    assert f"ask for {least + 0.005:.2f} or more" in caught.value.hint
    assert uniform(UNITS, "flops", 0.1, ("heads", "ffn")) is None
    assert allocate(UNITS, "flops", least + 0.005, ("heads", "ffn")).left <= least + 0.005


@pytest.mark.parametrize(
    ("measure", "names", "says", "advice"),
    [
        ("flops", ["haeds"], "unknown technique 'haeds'", "did you mean 'heads'"),
        ("flops", ["bits"], "bits saves no FLOPs", "heads, ffn, rank, sparsity"),
        ("size", ["rank"], "rank was not measured; measured are ffn, heads", "--set sensitivity.rank"),
        ("time", None, "holds no times", "--set sensitivity.time=true"),
    ],
)
def test_techniques_that_do_not_fit_are_named(
    measure: Measure, names: list[str] | None, says: str, advice: str
) -> None:
    with pytest.raises(RecipeError, match=says) as caught:
        chosen(UNITS, measure, names)
    assert advice in caught.value.hint
    widths = record(*[{"bits": 1.0}] * 3)
    with pytest.raises(RecipeError, match="nothing that was measured saves FLOPs; measured are bits"):
        chosen(widths, "flops")


def test_the_loss_may_be_what_is_least_in_place_of_the_divergence() -> None:
    turned = record({"ffn": 0.4}, {"ffn": 0.4}, {"ffn": 0.4})
    for row in turned["rows"]:
        row["loss_increase"] = 0.0 if row["layer"] == 2 else 0.1
        row["divergence"] = 0.0 if row["layer"] == 0 else 0.1
    share = 1 - 2 * TOKENS * 768 / FLOPS + 1e-3
    assert [bool(own) for own in allocate(turned, "flops", share, ("ffn",)).layers] == [True, False, False]
    found = allocate(turned, "flops", share, ("ffn",), "loss")
    assert ([bool(own) for own in found.layers], found.by) == ([False, False, True], "loss")
