from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
import pytest

from tests.deliver.test_report import EQUAL, lines_of, report, row, shown, three, timing
from toolchain.certainty.statistics import holm
from toolchain.core.errors import StoreError
from toolchain.deliver.report import Row, csv_text, markdown, to_json

ROUNDS = [10, 10.2, 9.8, 10]


def test_a_margin_gets_a_verdict_in_every_rendering(tmp_path: Path) -> None:
    # Of 200 examples int8 loses 4, zeros 2 and half 80, and none wins any; same has the baseline's labels.
    rows = [*three(tmp_path), row(tmp_path, "half", range(100), 100, timing(ROUNDS, [100] * 4))]
    rows.append(row(tmp_path, "same", range(20), 100, timing(ROUNDS, [100] * 4)))
    found = report(rows, margin=3)
    lines = lines_of(found)
    assert {name: line["not_worse"] for name, line in lines.items()} == {
        "int8/ort": "cannot say", "base/ort": None, "zeros/ort": "cannot say", "half/ort": "no",
        "same/ort": "yes",
    }  # fmt: skip
    # (1.959964 + 0.841621)² · (0.02 - 0.02²) / (0.03 - 0.02)² = 1,538, up to two digits.
    assert lines["int8/ort"]["not_worse_examples_needed"] == 1600
    assert "| at most 3 points worse |" in markdown(found)
    assert "cannot say with 200 examples; about 1,600 would do" in markdown(found)
    assert "≤ 3" in shown(found, 120)
    assert "at most 3 points worse: cannot say with 200 examples; about 1,600 would do" in shown(found, 200)
    cells = {line["name"]: line["not_worse"] for line in csv.DictReader(io.StringIO(csv_text(found)))}
    assert cells == {name: line["not_worse"] or "" for name, line in lines.items()}
    assert to_json(found)["margin"] == 3


def test_p_values_are_corrected_for_the_engines_compared_and_star_by_that(tmp_path: Path) -> None:
    rows = three(tmp_path)
    rows.append(row(tmp_path, "lossy", range(27), 100, timing(ROUNDS, [100] * 4)))
    lines = lines_of(report(rows))
    # 7 examples lost, none won: 2 · (1/2)^7 = 0.0156 alone, and three times that among three comparisons.
    assert lines["lossy/ort"]["mcnemar_p"] == pytest.approx(2 / 128)
    assert lines["lossy/ort"]["mcnemar_p_holm"] == pytest.approx(3 * 2 / 128)
    assert lines["base/ort"]["mcnemar_p_holm"] is None
    plain = [lines[name]["mcnemar_p"] for name in ("lossy/ort", "int8/ort", "zeros/ort")]
    corrected = [lines[name]["mcnemar_p_holm"] for name in ("lossy/ort", "int8/ort", "zeros/ort")]
    assert corrected == pytest.approx(holm(plain))
    assert "-3.50*" in shown(report(rows), 120)
    rows.append(row(tmp_path, "other", range(23), 100, timing(ROUNDS, [100] * 4)))
    assert "-3.50*" not in shown(report(rows), 120)  # four comparisons: 0.0625


def test_a_winner_that_the_data_do_not_settle_is_called_tied(tmp_path: Path) -> None:
    found = report(three(tmp_path))
    winner = to_json(found)["winner"]
    assert (winner["name"], winner["tied"], winner["settled"]) == ("int8/ort", ["base/ort"], False)
    lines = lines_of(found)
    assert (lines["int8/ort"]["rank_low"], lines["int8/ort"]["rank_high"]) == (1, 2)
    assert "int8/ort is tied with base/ort: the data do not settle which is ahead" in markdown(found)
    assert "tied (≈) with base/ort" in shown(found, 200)
    assert "| int8/ort | 1 | 1 to 2 | tied for first |" in markdown(found)


def test_a_winner_that_the_data_settle_is_named(tmp_path: Path) -> None:
    found = report(three(tmp_path), weights={**EQUAL, "speedup": 20.0})
    assert to_json(found)["winner"]["settled"]
    assert "int8/ort: the data put it ahead of every other that may be shipped" in markdown(found)


def test_the_weights_under_which_the_winner_stays_are_told(tmp_path: Path) -> None:
    found = report(three(tmp_path))
    winner = to_json(found)["winner"]
    # int8 leads base by -2·w_A + 3·w_CR + 1·w_IS, and zeros by -1·w_A + 3·w_CR + 1.01·w_IS.
    assert winner["ranges"]["accuracy"] == pytest.approx([0, 2])
    assert winner["ranges"]["compression"] == [pytest.approx(1 / 3), None]
    assert winner["ranges"]["speedup"] == [0, None]
    assert "while the weight of accuracy is 0 to 2, of size is at least 0.33\n" in markdown(found)
    shares = [line["weights_share"] for line in lines_of(found).values()]
    assert sum(shares) == pytest.approx(1)
    assert winner["share"] == shares[0] > 0.5


def test_the_front_is_told_with_what_it_covers(tmp_path: Path) -> None:
    found = report(three(tmp_path))
    (front,) = to_json(found)["fronts"]
    assert (front["engines"], front["floor_percent"]) == (["int8/ort", "base/ort"], 85)
    # int8: 3 points above 85 %, 3/4 of the bytes saved, half of the time.
    assert front["hypervolume"] == pytest.approx(3 * 0.75 * 0.5)
    assert {name: line["unbeaten"] for name, line in lines_of(found).items()} == {
        "int8/ort": True, "base/ort": True, "zeros/ort": False,
    }  # fmt: skip
    assert "nothing beats `int8/ort`, `base/ort` in accuracy, size and speed" in markdown(found)


def test_an_engine_that_failed_a_gate_is_no_winner(tmp_path: Path) -> None:
    rows = three(tmp_path)
    best = {"techniques": ["int8"], "provider": "CUDAExecutionProvider"}
    rows.append(row(tmp_path, "elsewhere", range(20), 1, timing([1] * 4, [999] * 4), **best))
    found = report(rows)
    line = lines_of(found)["elsewhere/ort"]
    assert (line["rank"], line["weights_share"], line["unbeaten"]) == (None, None, False)
    assert to_json(found)["winner"]["name"] == "int8/ort"


def seeds(folder: Path) -> list[Row]:
    """A baseline and an engine that is twice as fast, 1 % worse in one seed and 2 % in the other."""
    rows = []
    for seed, wrong in ((17, 22), (18, 24)):
        slow, fast = timing([10, 10.1, 9.9, 10], [100] * 4), timing([5, 5.05, 4.95, 5], [200] * 4)
        rows.append(row(folder, "base", range(20), 100, slow, seed=seed, baseline=True))
        rows.append(row(folder, "int8", range(wrong), 25, fast, seed=seed, techniques=["int8"]))
    return rows


def test_several_seeds_are_pooled_for_other_seeds_and_examples(tmp_path: Path) -> None:
    found = report(seeds(tmp_path))
    pooled = {item["name"]: item for item in to_json(found)["pooled"]}
    assert set(pooled) == {"base/ort", "int8/ort"}
    one = pooled["int8/ort"]
    assert one["seeds"] == [17, 18]
    assert one["accuracy_percent"] == pytest.approx((89 + 88) / 2)
    assert one["accuracy_spread_points"] == pytest.approx(np.std([89, 88], ddof=1))
    assert one["accuracy_change_points"] == pytest.approx(-1.5)
    assert one["accuracy_change_points_low"] < -2 < -1 < one["accuracy_change_points_high"]
    assert one["speedup_batch_1"] == pytest.approx(2)
    assert pooled["base/ort"]["accuracy_change_points"] is None
    # Its mean WS leads by 3 + 1 - 1.5 = 2.5; the noise of 200 examples is about 1.9, more than a lead of 1.
    assert [(item["rank"], item["tied_with_first"]) for item in pooled.values()] == [(1, False), (2, False)]
    near = report(seeds(tmp_path / "near"), weights={**EQUAL, "compression": 0.5})
    assert [item["tied_with_first"] for item in to_json(near)["pooled"]] == [False, True]
    assert "| ≈ 2 | **base/ort** | 2 |" in markdown(near)
    assert "| int8/ort | 2 | 88.50 | 0.71 | -1.50 [" in markdown(found)
    assert "## Over the seeds" not in markdown(report(three(tmp_path / "one")))


def test_what_may_not_be_shipped_in_a_seed_stands_last_over_the_seeds(tmp_path: Path) -> None:
    rows = seeds(tmp_path)
    best = {"techniques": ["int8"], "provider": "CUDAExecutionProvider"}  # its operators ran elsewhere
    rows += [
        row(tmp_path, "best", range(10), 10, timing([2] * 4, [500] * 4), seed=17, **best),
        row(tmp_path, "best", range(10), 10, timing([2] * 4, [500] * 4), seed=18, techniques=["int8"]),
    ]
    found = report(rows)
    pooled = to_json(found)["pooled"]
    assert [(item["name"], item["rank"]) for item in pooled] == [("int8/ort", 1), ("base/ort", 2), ("best/ort", None)]
    assert [item["barred"] for item in pooled] == [[], [], ["misplaced (seed 17)"]]
    assert "| may not be shipped |" in markdown(found)
    assert "| misplaced (seed 17) |" in markdown(found)


def test_engines_of_other_examples_are_not_ranked_together(tmp_path: Path) -> None:
    rows = three(tmp_path)
    short = row(tmp_path, "base", range(20), 100, timing(ROUNDS, [100] * 4), model="albert", baseline=True)
    path = short.evaluation / "evaluation.json"
    path.write_text(path.read_text().replace('"examples": 200, "correct": 180', '"examples": 100, "correct": 80'))
    text = path.read_text()
    labels = text[text.index("[") : text.index("]") + 1]
    path.write_text(text.replace(labels, str([place % 2 for place in range(100)])))
    probabilities = short.evaluation / "probabilities_test.npy"
    np.save(probabilities, np.load(probabilities)[:100])
    with pytest.raises(StoreError, match="different numbers of examples"):
        report([*rows, short])
