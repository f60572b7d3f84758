"""Gate 4 on a sound engine and on one whose padding mask is removed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.builders import MAX_LENGTH, SENTENCES, context, engine_folder
from tests.measure.faults import edited, ignore_mask
from toolchain import kinds
from toolchain.measure import gates, invariance
from toolchain.measure.process import WorkerProcess

KIND = kinds.get("classification")

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
        return invariance.measure(worker, TEXTS, np.zeros(len(TEXTS)), MAX_LENGTH, context(work), kind=KIND, full=True)


class Scripted:
    """A worker whose logits lead by what stands in a text, and move by a step in batches and by a step in padding."""

    def __init__(self, step: float) -> None:
        self.step, self.texts = step, 0

    def call(self, do: str, *_: Any, texts: str, batch_size: int, pad_to: int, out: str) -> dict[str, Any]:
        leads = np.array([float(text) for (text,) in json.loads(Path(texts).read_text("utf-8"))])
        leads -= self.step * ((batch_size > 1) + (pad_to > 0))
        np.save(out, np.stack([leads / 2, -leads / 2], axis=1))
        self.texts += len(leads)
        return {"pads": True}


def scripted(leads: list[float], step: float, work: Path, **more: Any) -> tuple[dict[str, Any], int]:
    """The evidence on sentences that an engine decides by these leads, and how many texts it ran."""
    scripted, texts = Scripted(step), [(str(lead),) for lead in leads]
    work.mkdir(exist_ok=True)
    worker: Any = scripted
    found = invariance.measure(worker, texts, np.array(leads), 128, context(work), kind=KIND, **more)
    return found, scripted.texts


#: A thousand sentences, decided by 0.01 to 10.
LEADS = [place / 100 for place in range(1, 1001)]


def test_runs_end_when_no_sentence_that_is_left_can_flip(tmp_path: Path) -> None:
    found, texts = scripted(LEADS, 0.001, tmp_path)
    # 64 sentences are drawn, and about 68 of the first have the 64 least certain others; two steps are far below.
    assert (found["examples"], texts, found["safe"]) == (128, 3 * 128, True)
    assert 0.6 <= found["least_left"] <= 0.8
    assert found["change"] == pytest.approx(0.001)
    verdict = gates.invariance(found)
    assert verdict.passed
    assert (
        "on 128 of 1000 test sentences, the least certain among them; the rest are decided by 0.6" in verdict.evidence
    )


def test_larger_changes_run_more_sentences_and_count_every_flip(tmp_path: Path) -> None:
    found, _ = scripted(LEADS, 0.034, tmp_path)
    whole, texts = scripted(LEADS, 0.034, tmp_path, full=True)
    # Sentences decided by 0.01 to 0.03 flip in the batch, those by 0.04 to 0.06 by the padding.
    assert (found["batch"]["flips"], found["padding"]["flips"]) == (3, 3)
    assert [found[run]["indices"] for run in ("batch", "padding")] == [
        whole[run]["indices"] for run in ("batch", "padding")
    ]
    assert (whole["examples"], whole["least_left"], texts) == (1000, None, 3000)


def test_runs_end_when_the_flips_so_far_settle_that_it_fails(tmp_path: Path) -> None:
    found, _ = scripted(LEADS, 5.0, tmp_path)
    assert found["examples"] < 1000
    assert gates.invariance(found).failed


def test_a_sentence_that_was_drawn_is_not_run_twice(tmp_path: Path) -> None:
    margins = np.array(LEADS)
    places = invariance.order(margins)
    assert sorted(places) == [*range(1000)]
    drawn, rest = set(places[:64]), places[64:]
    assert rest == [place for place in range(1000) if place not in drawn]
    assert places == invariance.order(margins)
    assert sorted(invariance.order(margins[:9])) == [*range(9)]


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
    found = invariance._flips(KIND, sound, broken, [7, 9])
    assert found == {"flips": 1, "ties": 0, "indices": [7], "max_difference": 0.25}


def evidence(flips: int, of: int, *, ties: int = 0, **more: Any) -> dict[str, Any]:
    """What the gate measured, of all sentences, where padding has flipped some labels."""

    def run(flips: int, ties: int) -> dict[str, Any]:
        return {"flips": flips, "ties": ties, "indices": list(range(flips)), "max_difference": 0.5}

    batch, padding = {"sizes": [1, 32], **run(0, 0)}, {"pad_to": 128, **run(flips, ties)}
    found = {"examples": of, "of": of, "change": 1.0, "least_left": None, "safe": True}
    return {**found, "batch": batch, "padding": padding, **more}


def test_an_engine_that_pads_by_itself_has_no_padding_to_pass() -> None:
    verdict = gates.invariance(evidence(0, 9, padding=None))
    assert verdict.passed
    assert verdict.evidence == (
        "batch 1 against 32: label flips 0; padding not run: the engine tokenizes, and pads, by itself; "
        "on all 9 test sentences"
    )


@pytest.mark.parametrize(
    ("flips", "of", "passed"),
    # Wilson's lower ends by his formula: 2 of 300 0.18 %, 9 of 1000 0.47 %, 10 of 1000 0.54 %, 16 of 1821 0.54 %.
    [(5, 1000, True), (6, 1000, None), (9, 1000, None), (10, 1000, False), (2, 300, None), (1, 300, True),
     (15, 1821, None), (16, 1821, False)],
)  # fmt: skip
def test_an_engine_fails_only_where_the_whole_interval_is_above_the_limit(
    flips: int, of: int, passed: bool | None
) -> None:
    assert gates.invariance(evidence(flips, of)).passed is passed


def test_what_the_split_cannot_say_is_no_failure_and_says_its_interval() -> None:
    verdict = gates.invariance(evidence(2, 300))
    assert (verdict.failed, verdict.open, gates.binding([verdict])) == (False, True, [])
    assert verdict.reason == "cannot say: 2 flips of 300 are 0.18 to 2.4 % of the labels, and 0.5 % may flip"
    assert verdict.evidence.startswith(f"{verdict.reason}; batch 1 against 32: label flips 0; ")


def test_toss_ups_do_not_count() -> None:
    assert gates.invariance(evidence(12, 1000, ties=7)).passed


def test_switched_off_is_not_passed() -> None:
    verdict = gates.invariance(None)
    assert (verdict.passed, verdict.reason) == (None, "evaluate: {invariance: off}")
