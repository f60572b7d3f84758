"""What every engine of the registry keeps to, on each of its providers; those that cannot run here say why."""

from __future__ import annotations

import functools
import shutil
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.builders import MAX_LENGTH, engine_folder
from tests.shared import once
from toolchain.core import registry
from toolchain.core.errors import EngineError
from toolchain.core.session import INPUTS, ConcurrentSession, Session
from toolchain.deliver import doctor
from toolchain.runtime.predictor import open_engine

#: The largest difference of two answers to the same rows: float32, added up in another order.
ROUNDING = 1e-4

#: Rows and tokens of batches: alone and many, the shortest text and the longest.
SHAPES = ((1, 3), (1, MAX_LENGTH), (2, 4), (3, 9), (7, 21), (33, MAX_LENGTH))

#: More tokens than the model has positions.
TOO_LONG = 500


@functools.cache
def verdicts() -> dict[tuple[str, str], dict[str, Any]]:
    """What ``doctor`` says of each engine and provider."""
    return {(row["engine"], row["provider"]): row for row in doctor.diagnose()["engines"]}


def cases() -> list[Any]:
    """Every engine on each of its providers; those that do not run here are skipped with the reason."""
    params = []
    for name, provider in verdicts():
        row = verdicts()[name, provider]
        able = row["runs"] and row["builds"]
        skip = () if able else pytest.mark.skip(f"{name} {provider}: {row['reason']}")
        params.append(pytest.param(name, provider, id=f"{name}-{provider}".rstrip("-"), marks=skip))
    return params


each_engine = pytest.mark.parametrize(("name", "provider"), cases())


@functools.cache
def folder(name: str, provider: str) -> Path:
    """The tiny BERT as this engine, not tuned: made once, and never written to."""
    config = registry.get("engines", name).config
    settings: dict[str, Any] = {"tune": False} if "tune" in {field.name for field in fields(config)} else {}
    settings |= {"provider": provider} if provider else {}
    return once(f"contract-{name}-{provider}", lambda out: engine_folder(out, name, **settings))


@functools.cache
def opened(name: str, provider: str, threads: int = 2) -> Session:
    return open_engine(folder(name, provider), threads)


def ask(session: Session, batch: Mapping[str, Any]) -> Any:
    """The logits of one batch, ``[rows, labels]``."""
    return _only(session.run(batch))


def ask_many(session: ConcurrentSession, batches: list[dict[str, Any]]) -> list[Any]:
    """The logits of several batches, each ``[rows, labels]``."""
    return [_only(outputs) for outputs in session.run_many(batches)]


def _only(outputs: Mapping[str, Any]) -> Any:
    """The one output of a classifier."""
    assert list(outputs) == ["logits"]
    return outputs["logits"]


def concurrent(name: str, provider: str) -> ConcurrentSession:
    session = opened(name, provider)
    if not isinstance(session, ConcurrentSession):
        pytest.skip(f"{name} computes one batch at a time")
    return session


def batch_of(session: Session, rows: int, tokens: int, seed: int = 0) -> dict[str, Any]:
    """A batch of random words; all rows but the first are padded, each to another length."""
    ids = np.random.default_rng(seed).integers(4, 60, (rows, tokens))
    mask = np.ones_like(ids)
    for row in range(1, rows):
        mask[row, max(2, tokens - 2 * row) :] = 0
    whole = {"input_ids": np.where(mask, ids, 0), "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
    return {name: whole[name] for name in session.inputs}


def batches_of(session: Session) -> list[dict[str, Any]]:
    return [batch_of(session, *shape, seed) for seed, shape in enumerate(SHAPES)]


def test_every_engine_of_the_registry_is_held_to_the_contract() -> None:
    assert {name for name, _ in verdicts()} == set(registry.names("engines"))
    assert [row["engine"] for row in verdicts().values() if row["runs"] and row["builds"]]


@each_engine
def test_it_names_its_inputs_and_where_its_nodes_run(name: str, provider: str) -> None:
    session = opened(name, provider)
    assert session.inputs == INPUTS  # of BERT: ids, mask, segments
    placement = session.placement()
    assert placement
    assert min(placement.values()) > 0


@each_engine
def test_every_shape_gives_each_row_what_it_gets_alone(name: str, provider: str) -> None:
    session = opened(name, provider)
    for batch in batches_of(session):
        answer = ask(session, batch)
        rows = len(batch["input_ids"])
        assert answer.shape == (rows, 2)
        assert answer.dtype == np.float32
        for row in (0, rows - 1):
            length = int(batch["attention_mask"][row].sum())
            alone = {key: values[row : row + 1, :length] for key, values in batch.items()}
            assert np.abs(ask(session, alone)[0] - answer[row]).max() < ROUNDING


@each_engine
def test_several_batches_get_what_each_gets_alone_in_their_order(name: str, provider: str) -> None:
    session = concurrent(name, provider)
    assert session.concurrency >= 1
    batches = batches_of(session)
    expected = [ask(session, batch) for batch in batches]
    for number in (0, 1, len(batches)):
        answers = ask_many(session, batches[:number])
        assert len(answers) == number
        for answer, alone in zip(answers, expected, strict=False):
            assert np.abs(answer - alone).max() < ROUNDING


@each_engine
def test_batches_are_only_read_and_answers_are_the_callers_own(name: str, provider: str) -> None:
    session = opened(name, provider)
    batch, other = batch_of(session, 3, 9), batch_of(session, 3, 9, seed=1)
    given = {key: values.copy() for key, values in batch.items()}
    answer = ask(session, batch)
    first = answer.copy()
    assert all(np.array_equal(batch[key], given[key]) for key in batch)
    for values in batch.values():
        values[:] = 1
    assert np.abs(ask(session, other) - first).max() > ROUNDING  # another batch has another answer
    assert np.array_equal(answer, first)


@each_engine
def test_one_thread_and_two_give_the_same_labels(name: str, provider: str) -> None:
    one, two = (opened(name, provider, threads) for threads in (1, 2))
    answers = [(ask(one, batch), ask(two, batch)) for batch in batches_of(one)]
    labels = np.concatenate([answer.argmax(axis=1) for answer, _ in answers])
    assert set(labels) == {0, 1}
    assert np.array_equal(labels, np.concatenate([answer.argmax(axis=1) for _, answer in answers]))


@each_engine
def test_after_a_batch_that_it_cannot_compute_it_answers_as_before(name: str, provider: str) -> None:
    session = opened(name, provider)
    good, long = batch_of(session, 3, 9), batch_of(session, 2, TOO_LONG)
    expected = ask(session, good)
    with pytest.raises(EngineError, match=str(TOO_LONG)):
        ask(session, long)
    assert np.array_equal(ask(session, good), expected)
    if isinstance(session, ConcurrentSession):
        with pytest.raises(EngineError, match=str(TOO_LONG)):
            ask_many(session, [good, long, good])
        assert all(np.abs(answer - expected).max() < ROUNDING for answer in ask_many(session, [good, good]))


@each_engine
def test_callers_in_several_threads_get_their_own_answers(name: str, provider: str) -> None:
    session = opened(name, provider)
    batches = batches_of(session)
    expected = [ask(session, batch) for batch in batches]
    together = threading.Barrier(4)

    def call(caller: int) -> list[tuple[int, Any]]:
        together.wait(timeout=30)
        order = [(caller + step) % len(batches) for step in range(2 * len(batches))]
        return [(index, ask(session, batches[index])) for index in order]

    with ThreadPoolExecutor(4) as pool:
        answers = [answer for caller in pool.map(call, range(4)) for answer in caller]
    assert len(answers) == 4 * 2 * len(batches)
    for index, answer in answers:
        assert np.abs(answer - expected[index]).max() < ROUNDING


@each_engine
def test_two_sessions_of_one_folder_do_not_disturb_each_other(name: str, provider: str, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folder(name, provider), tmp_path / "engine"))
    first, second = open_engine(copy, 1), open_engine(copy, 1)
    batch = batch_of(first, 3, 9)
    expected = ask(first, batch)
    assert np.array_equal(ask(second, batch), expected)
    with pytest.raises(EngineError):
        ask(first, batch_of(first, 2, TOO_LONG))
    del first
    assert np.array_equal(ask(second, batch), expected)
