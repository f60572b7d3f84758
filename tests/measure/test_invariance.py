"""Gate 4 on a sound engine and on one whose padding mask is removed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.builders import MAX_LENGTH, SENTENCES, context, engine_folder
from tests.measure.faults import edited, ignore_mask
from toolchain.measure import gates, invariance
from toolchain.measure.process import WorkerProcess

#: 116 texts of one word to sixteen: every beginning and every ending of the sentences.
TEXTS = [
    (" ".join(part),)
    for words in (sentence.split() for sentence in SENTENCES)
    for length in range(1, len(words) + 1)
    for part in {tuple(words[:length]), tuple(words[-length:])}
]


def measured(engine: Path, work: Path) -> dict[str, Any]:
    """The gate's evidence on all texts."""
    with WorkerProcess("engine", 1) as worker:
        worker.call("open", folder=str(engine), threads=1)
        return invariance.measure(worker, TEXTS, range(len(TEXTS)), MAX_LENGTH, context(work))


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return engine_folder(tmp_path_factory.mktemp("engine"), offline=False)


def test_a_sound_engine_gives_the_same_label_in_every_company(engine: Path, tmp_path: Path) -> None:
    found = measured(engine, tmp_path)
    assert (found["batch"]["flips"], found["padding"]["flips"]) == (0, 0)
    assert max(found["batch"]["max_difference"], found["padding"]["max_difference"]) < 1e-4
    verdict = gates.invariance(found)
    assert verdict.passed
    assert verdict.evidence == (
        "batch 1 against 32: label flips 0; padded to the batch against 32 tokens: label flips 0; "
        "on all 116 test sentences"
    )
    assert list(tmp_path.iterdir()) == []


def test_a_graph_that_has_lost_its_padding_mask_fails_and_names_sentences(engine: Path, tmp_path: Path) -> None:
    found = measured(edited(engine, tmp_path / "unmasked", ignore_mask), tmp_path)
    flips = found["batch"]["flips"] - found["batch"]["ties"]
    assert flips > gates.MOST_FLIPS * len(TEXTS)
    assert len(found["batch"]["indices"]) == found["batch"]["flips"]
    assert found["batch"]["max_difference"] > 0.1
    verdict = gates.invariance(found)
    assert verdict.failed
    assert f"batch 1 against 32: label flips {found['batch']['flips']} (sentences {found['batch']['indices'][0]}," in (
        verdict.evidence
    )


def test_a_sentence_without_numbers_is_a_flip_whatever_its_label_would_be() -> None:
    sound = np.array([[2.0, -1.0], [0.5, 1.0]], np.float32)
    broken = np.array([[np.nan, np.nan], [0.5, 1.25]], np.float32)
    found = invariance._flips(sound, broken, [7, 9])
    assert found == {"flips": 1, "ties": 0, "indices": [7], "max_difference": 0.25}


def test_an_engine_that_pads_by_itself_has_no_padding_to_pass() -> None:
    run = {"flips": 0, "ties": 0, "indices": [], "max_difference": 0.0}
    verdict = gates.invariance({"examples": 9, "of": 9, "batch": {"sizes": [1, 32], **run}, "padding": None})
    assert verdict.passed
    assert verdict.evidence == (
        "batch 1 against 32: label flips 0; padding not run: the engine tokenizes, and pads, by itself; "
        "on all 9 test sentences"
    )


def test_a_sample_grows_with_the_time_and_holds_the_smaller_ones() -> None:
    small = invariance.positions("auto", 2000, 10.0, 1.0)
    larger = invariance.positions("auto", 2000, 500.0, 1.0)
    assert (len(small), len(larger)) == (256, 500)
    assert set(small) < set(larger)
    assert small == sorted(small) == invariance.positions("sample", 2000, 1e9, 1e-9)
    assert invariance.positions("auto", 2000, 2001.0, 1.0) == invariance.positions("full", 2000, 0, 1) == [*range(2000)]
    assert invariance.positions("sample", 100, 0, 1) == [*range(100)]


def test_half_a_percent_of_the_labels_may_flip_and_no_more() -> None:
    def run(flips: int) -> dict[str, Any]:
        return {"flips": flips, "ties": 0, "indices": list(range(flips)), "max_difference": 0.5}

    def found(flips: int) -> dict[str, Any]:
        batch, padding = {"sizes": [1, 32], **run(0)}, {"pad_to": 128, **run(flips)}
        return {"examples": 1000, "of": 1821, "batch": batch, "padding": padding}

    assert gates.invariance(found(5)).passed
    verdict = gates.invariance(found(6))
    assert verdict.failed
    assert verdict.evidence.endswith("label flips 6 (sentences 0, 1, 2, 3, 4, …); on 1000 of 1821 test sentences")


def test_switched_off_is_not_passed() -> None:
    verdict = gates.invariance(None)
    assert (verdict.passed, verdict.reason) == (None, "evaluate: {invariance: off}")
