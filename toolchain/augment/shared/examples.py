"""What the augmentations share: making texts in pieces that survive a kill, and which of them may be learned from.

A text is left out when it is empty, stands in the training examples or was made before (case, white space and
punctuation do not count), or leaks: it is a text of dev or test, or has a run of :data:`RUN` words in common with one
(as n-gram overlap is looked for in Brown et al., arXiv 2005.14165, with a shorter run). A teacher labels what is left,
because a replaced word may turn a sentence around; what it is not sure of, or labels otherwise than the example that
the text was made from, can be left out as well. Everything that is left out is counted.
"""

from __future__ import annotations

import dataclasses
import json
import random
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from toolchain import kinds
from toolchain.augment.shared.examples_file import Example, write
from toolchain.core.data import Dataset, Split
from toolchain.core.errors import DataError, require
from toolchain.core.log import logger, progress
from toolchain.core.stage import Context, Ge, Lt, Metrics, StageConfig
from toolchain.model import teach
from toolchain.tasks.shared.overlap import normalized

#: Words in a row that a text may not share with one of dev or test.
RUN = 10

#: Training examples whose new texts are made, and kept on disk, together.
PIECE = 64

#: Made texts that the metrics show.
SHOWN = 5

#: What may be replaced: three letters or more.
WORD = re.compile(r"[^\W\d_]{3,}")


@dataclass(frozen=True, kw_only=True)
class AugmentConfig(StageConfig):
    """Settings that all augmentations have.

    Attributes:
        teacher: Who labels new texts: ``before`` (the checkpoint that stands before it), the name of a stage or
            technique before it, MODEL.finetune, or a model's source; null keeps the label that a text was made under.
        agree: With a teacher: leave out what it labels otherwise than the text was made under.
        confidence: With a teacher: leave out what it gives a lower probability.
    """

    teacher: str | None = "before"
    agree: bool = False
    confidence: Annotated[float, Ge(0), Lt(1)] = 0.0

    def __post_init__(self) -> None:
        if self.teacher == "":
            raise ValueError("teacher: a name of no letters; null is nobody")
        if self.teacher is None and (self.agree or self.confidence):
            raise ValueError("agree and confidence ask a teacher, and there is none: name one, or leave them out")


def teachers(config: AugmentConfig) -> tuple[str, ...]:
    """Who teaches, as the plan knows it."""
    return () if config.teacher is None else (config.teacher,)


def in_pieces(
    count: int, context: Context, label: str, make: Callable[[range, random.Random], list[Example]]
) -> list[Example]:
    """Makes texts piece by piece; pieces that were made before a kill are read.

    Args:
        count: How many things there are to make texts of.
        context: Seed, and the folder whose pieces are read and written to.
        label: What progress is called.
        make: make(positions, random) → texts of a piece; the same for the same seed and piece.
    """
    context.work.mkdir(parents=True, exist_ok=True)
    file, found = context.work / "made.jsonl", []
    pieces = [range(start, min(count, start + PIECE)) for start in range(0, count, PIECE)]
    done = list(_pieces(file))
    whole = file.with_suffix(".new")
    whole.write_text("".join(_line(made) for made in done), "utf-8")  # a kill may have left a piece half written
    whole.replace(file)
    if done:
        logger.info("    %d of %d pieces are made already", len(done), len(pieces))
    with file.open("a", encoding="utf-8") as out, progress(label, count) as bar:
        for number, piece in enumerate(pieces):
            if number < len(done):
                found += done[number]
            else:
                seed = context.seed * 1_000_003 + number
                require("torch", "torch").manual_seed(seed)
                made = make(piece, random.Random(seed))
                out.write(_line(made))
                out.flush()
                found += made
            bar.advance(len(piece))
    return found


def _line(made: Sequence[Example]) -> str:
    return json.dumps([dataclasses.astuple(example) for example in made]) + "\n"


def _pieces(file: Path) -> Iterator[list[Example]]:
    """The pieces that a file holds whole."""
    for line in file.read_text("utf-8").splitlines(keepends=True) if file.is_file() else ():
        if line.endswith("\n"):
            yield [Example(tuple(text), label, of) for text, label, of in json.loads(line)]


def finish(
    examples: Sequence[Example], out: Path, config: AugmentConfig, context: Context, labelled: bool = True
) -> Metrics:
    """Leaves out what may not be learned from, labels the rest, and writes it.

    Args:
        examples: What was made.
        out: Folder to write.
        config: Who labels.
        context: Data, and who labels.
        labelled: Whether texts were made under a label, with which a teacher's can be compared.

    Returns:
        ``made`` and ``kept``; ``empty``, ``duplicates``, ``leaks``, ``disagreeing`` and ``unsure`` left out;
        ``relabelled`` of those kept; and some ``examples``.

    Raises:
        DataError: Nothing is left.
    """
    data = context.dataset()
    counts = dict.fromkeys(("empty", "duplicates", "leaks", "disagreeing", "unsure", "relabelled"), 0)
    left = list(_sound(examples, data, counts))
    kept = left
    if context.labeller and left:
        kept = list(_labelled(left, context.labeller, context, config, counts, labelled))
    if not kept:
        raise DataError(
            f"none of {len(examples):,} new texts may be learned from: "
            + ", ".join(f"{value:,} {name}" for name, value in counts.items() if value),
            "ask for more copies, or a lower confidence",
        )
    write(out, kept, data.labels)
    told = ", ".join(f"{value:,} {name}" for name, value in counts.items() if value)
    logger.info("    %s texts made, %s kept%s", f"{len(examples):,}", f"{len(kept):,}", f" ({told})" if told else "")
    shown = [_shown(example, data) for example in kept[:: max(1, len(kept) // SHOWN)][:SHOWN]]
    return {"made": len(examples), "kept": len(kept), **counts, "examples": shown}


def _shown(example: Example, data: Dataset) -> dict[str, Any]:
    given = {"text": " | ".join(example.text), "label": data.labels[example.label or 0]}
    return given | ({} if example.of is None else {"of": " | ".join(data.train.texts[example.of])})


def _sound(examples: Sequence[Example], data: Dataset, counts: dict[str, int]) -> Iterator[Example]:
    """Those that are neither empty, nor known, nor of dev or test."""
    seen = {normalized(text) for text in data.train.texts}
    judged = {normalized(text) for split in (data.dev, data.test) for text in split.texts}
    runs = {run for text in judged for run in _runs(text)}
    for example in examples:
        text = normalized(example.text)
        if not all(text):
            counts["empty"] += 1
        elif text in seen:
            counts["duplicates"] += 1
        elif text in judged or any(run in runs for run in _runs(text)):
            counts["leaks"] += 1
        else:
            seen.add(text)
            yield example


def _runs(text: Sequence[str]) -> Iterator[str]:
    """Every run of :data:`RUN` words of a text."""
    for part in text:
        words = part.split()
        for start in range(len(words) - RUN + 1):
            yield " ".join(words[start : start + RUN])


def _labelled(
    examples: Sequence[Example], folder: Path, context: Context, config: AugmentConfig, counts: dict[str, int],
    labelled: bool,
) -> Iterator[Example]:  # fmt: skip
    """The examples with the teacher's labels, but for those that it is not sure of, or does not agree to."""
    import numpy as np

    data = context.dataset()
    split = Split([example.text for example in examples], [0] * len(examples))
    answers = teach.asked(folder, [split], data.labels, context.threads)[0].astype(np.float64)
    kind = kinds.get(data.kind)
    for example, prediction in zip(examples, kind.decode(kind.activate(answers), data.labels), strict=True):
        label = data.labels.index(prediction.label)
        if config.agree and labelled and label != example.label:
            counts["disagreeing"] += 1
        elif prediction.probability < config.confidence:
            counts["unsure"] += 1
        else:
            counts["relabelled"] += labelled and label != example.label
            yield dataclasses.replace(example, label=label)
