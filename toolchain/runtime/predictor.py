"""Text in, answers out: tokenizer, batches of like length, engine. What measures, predicts and serves all run this.

However many texts it is handed, it splits them into batches of like length (``batching``), so that requests of mixed
lengths cost little more than sorted ones; answers come back in the order of the texts. An engine that holds its
tokenizer in its graph is handed the texts themselves.

Nothing here, and nothing that it imports, loads PyTorch or transformers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from toolchain import kinds
from toolchain.core import registry
from toolchain.core.errors import DataError, EngineError, ModelError
from toolchain.core.files import safe_folder
from toolchain.core.hooks import Engine
from toolchain.core.processors import physical_cores
from toolchain.core.session import INPUTS, TEXT_INPUT, ConcurrentSession, Session
from toolchain.core.vendor import vendor
from toolchain.engines.shared.artifact import ENGINE_FILE, check_digest, read_engine
from toolchain.engines.shared.batching import plan_batches, read_batching
from toolchain.kinds.shared.prediction import Prediction
from toolchain.model import heads
from toolchain.model.tokens import TOKENIZER_FILE, Tokens, load_tokenizer, pad, tokenize
from toolchain.runtime.interface import read_interface

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from toolchain.core.session import Outputs

#: About how many characters a token has, where texts are batched by length and not tokenized here.
CHARACTERS_PER_TOKEN = 4

#: Characters of a bad text that an error repeats.
SHOWN = 40


@dataclass(frozen=True, slots=True)
class Raw:
    """One example for an engine that tokenizes by itself.

    Attributes:
        text: The text.
    """

    text: str

    def __len__(self) -> int:
        """About how many tokens it has; only batches are chosen by it."""
        return 2 + len(self.text) // CHARACTERS_PER_TOKEN


class Predictor:
    """An engine with its tokenizer.

    Args:
        folder: An engine folder: ``engine.json``, ``interface.json``, ``tokenizer.json`` and the engine's own files.
        threads: Threads that compute one batch; 0 is every physical core that affinity and CPU quota allow.
        session: The folder's engine, where it is open already.
        digest: SHA-256 of the folder's content, as whoever built it tells; nothing is loaded where it differs. Without
            it the folder is trusted: a plan of TensorRT is native code.

    Attributes:
        interface: What is known of the model.
        kind: The kind of task.
        labels: Class names, in the order of the logits.
        session: The loaded engine.
        batching: How the engine likes its batches.

    Raises:
        ModelError: The folder, ``interface.json`` or ``tokenizer.json`` is missing or damaged, or the model is not of
            its kind of task.
        EngineError: The engine is missing or damaged, or cannot run here.
    """

    def __init__(
        self, folder: Path | str, threads: int = 0, session: Session | None = None, *, digest: str | None = None
    ) -> None:
        folder = Path(folder).expanduser()
        if not folder.is_dir():
            problem = "is a file; an engine is a folder" if folder.exists() else "no such folder"
            raise ModelError(
                f"{folder}: {problem}", "give an engine folder, such as 'toolchain build -o FOLDER' writes"
            )
        self.folder = folder
        safe_folder(folder, ("*.json",))
        if digest is not None:
            check_digest(folder, digest)
        self.interface = read_interface(folder)
        self.kind = kinds.get(self.interface.kind, self.interface.labels)
        self.labels = self.interface.labels
        heads.check_deployed(folder, self.labels, self.interface.kind)
        self._tokenizer = load_tokenizer(folder / TOKENIZER_FILE, self.interface.max_length)
        self.session = session if session is not None else open_engine(folder, threads)
        bare = session is not None and not (folder / ENGINE_FILE).is_file()  # a graph that is only compared
        self.batching = read_batching({} if bare else read_engine(folder).extra, str(folder / ENGINE_FILE))
        self._tokenizes = TEXT_INPUT not in self.session.inputs
        if not self._tokenizes and self.interface.pair:
            raise ModelError(
                f"{folder} reads text in its graph, and pairs of texts", "its tokenizer takes single texts"
            )

    def encode(self, texts: Iterable[tuple[str, ...] | str]) -> list[Tokens | Raw]:
        """Turns texts into what is batched: tokens, or the texts themselves where the engine tokenizes.

        Args:
            texts: One tuple per example: one string, or two for a model of pairs. A bare string counts as one;
                a generator is read to its end.

        Raises:
            DataError: An example is not text, or has another number of texts than the model takes.
        """
        checked = self._checked(texts)
        if not checked:
            return []
        if not self._tokenizes:
            _refuse_broken(checked)
            return [Raw(text) for (text,) in checked]
        return [*self._tokens(checked)]

    def lengths(self, examples: Sequence[Tokens | Raw]) -> tuple[list[int], int]:
        """Return the tokens of each example, the special ones included, and how many examples are cut."""
        tokenized = iter(self._tokens([(example.text,) for example in examples if isinstance(example, Raw)]))
        rows = [next(tokenized) if isinstance(example, Raw) else example for example in examples]
        return [len(row) for row in rows], sum(row.cut for row in rows)

    def rows(self, encoded: Sequence[Tokens | Raw]) -> tuple[Sequence[Tokens | Raw], Sequence[int]]:
        """Return the rows that the engine computes for examples, and the position of the example of each."""
        return self.kind.rows(encoded, self.interface.max_length)

    def collate(self, encoded: Sequence[Tokens | Raw], pad_to: int = 0) -> dict[str, NDArray[Any]]:
        """Makes one batch, padded to its longest row.

        Args:
            encoded: Rows, as ``rows`` gives them.
            pad_to: Pad to at least so many tokens; an engine that tokenizes pads by itself.

        Returns:
            Those inputs that the engine reads: each ``[batch, tokens]`` int64, or ``text`` ``[batch]``.
        """
        if not self._tokenizes:
            return {
                TEXT_INPUT: np.array([example.text for example in encoded if isinstance(example, Raw)], dtype=object)
            }
        rows = [example for example in encoded if isinstance(example, Tokens)]
        fills = {"input_ids": self.interface.pad_id, "token_type_ids": self.interface.pad_type_id}
        names = [name for name in INPUTS if name in self.session.inputs]
        return dict(pad(rows, names, fills, self.interface.padding_side, pad_to))

    def batches(
        self, encoded: Sequence[Tokens | Raw], batch_size: int = 32, sort: bool = True
    ) -> Iterator[tuple[list[int], dict[str, NDArray[Any]]]]:
        """Splits rows into batches.

        Args:
            encoded: Rows, as ``rows`` gives them.
            batch_size: The most rows of a batch, from 1.
            sort: Batch rows of like length, the longest first, as costs least (``plan_batches``); otherwise as
                they come, as many as fit into ``batch_size``, padded to the longest.

        Yields:
            Positions of a batch's rows, and the batch.
        """
        if sort:
            lengths = [len(example) for example in encoded]
            concurrency = self.session.concurrency if isinstance(self.session, ConcurrentSession) else 1
            split = plan_batches(lengths, batch_size, self.batching, concurrency)
        else:
            order = range(len(encoded))
            split = [list(order[start : start + batch_size]) for start in order[::batch_size]]
        for chosen in split:
            yield chosen, self.collate([encoded[index] for index in chosen])

    def run_all(self, batches: Sequence[Mapping[str, NDArray[Any]]]) -> list[Outputs]:
        """Return the outputs of batches, computed several at a time where the engine gains by it."""
        if len(batches) > 1 and isinstance(self.session, ConcurrentSession):
            return self.session.run_many(batches)
        return [self.session.run(batch) for batch in batches]

    def logits(
        self, texts: Iterable[tuple[str, ...] | str], batch_size: int = 32, sort: bool = True
    ) -> NDArray[np.float32]:
        """Return what the engine answers to texts, not activated: logits, of a classifier.

        Args:
            texts: One tuple per example.
            batch_size: The most examples of a batch, from 1.
            sort: Batch examples of like length.

        Returns:
            ``[examples, …]``, in the order of the texts whatever the batches; ``[examples, labels]`` of a classifier.

        Raises:
            DataError: An example is not what the model takes.
            EngineError: The engine failed, or gave another number of logits than the model has labels.
        """
        return self.encoded_logits(self.encode(texts), batch_size, sort)

    def encoded_logits(
        self, encoded: Sequence[Tokens | Raw], batch_size: int = 32, sort: bool = True
    ) -> NDArray[np.float32]:
        """Like ``logits``, of what ``encode`` gave."""
        if batch_size < 1:
            raise DataError(f"batch_size is {batch_size}; allowed are whole numbers from 1")
        rows, owners = self.rows(encoded)
        split = list(self.batches(rows, batch_size, sort))
        answers = self.run_all([batch for _, batch in split])
        parts = [(chosen, answer) for (chosen, _), answer in zip(split, answers, strict=True)]
        for chosen, answer in parts:
            self._check_shapes(answer, len(chosen))
        parts = [(chosen, self._from_first_token(answer, [rows[i] for i in chosen])) for chosen, answer in parts]
        return self.kind.fold(owners, kinds.gathered(self.kind, parts, len(rows), len(self.labels)), rows)

    def batch_logits(self, encoded: Sequence[Tokens | Raw], pad_to: int = 0) -> NDArray[np.float32]:
        """Like ``encoded_logits``, of examples that are computed as one batch, padded to at least so many tokens."""
        rows, owners = self.rows(encoded)
        return self.kind.fold(owners, self._from_first_token(self.session.run(self.collate(rows, pad_to)), rows), rows)

    def probabilities(
        self, texts: Iterable[tuple[str, ...] | str], batch_size: int = 32, sort: bool = True
    ) -> NDArray[np.float32]:
        """Like ``logits``, activated: probabilities, of which every row sums to 1, of a classifier."""
        return self.kind.activate(self.logits(texts, batch_size, sort))

    def predict(self, texts: Iterable[tuple[str, ...] | str], batch_size: int = 32) -> list[Prediction]:
        """Return what the engine says of every text, in their order: of a classifier, the likeliest label."""
        checked = self._checked(texts)
        return self.kind.decode(self.probabilities(checked, batch_size), self.labels, checked)

    __call__ = predict

    def _from_first_token(self, answer: Outputs, rows: Sequence[Tokens | Raw]) -> Outputs:
        lengths = [len(row) for row in rows]
        return kinds.from_first_token(self.kind, answer, lengths, self.interface.padding_side)

    def _check_shapes(self, answer: Outputs, rows: int) -> None:
        sizes = {"batch": rows, "labels": len(self.labels)}
        for output in self.kind.OUTPUTS:
            shape = answer[output.name].shape
            known = [sizes.get(axis, size) for axis, size in zip(output.axes, shape, strict=False)]
            if len(shape) != len(output.axes) or list(shape) != known:
                raise EngineError(
                    f"{self.folder} answered {rows} examples with the shape {shape}; its interface.json "
                    f"has {len(self.labels)} labels: {', '.join(self.labels)}"
                )

    def _checked(self, texts: Iterable[tuple[str, ...] | str]) -> list[tuple[str, ...]]:
        if isinstance(texts, str):
            raise DataError(f"one text was given, {texts[:SHOWN]!r}; allowed is a list of them")
        wanted = 2 if self.interface.pair else 1
        checked: list[tuple[str, ...]] = []
        for index, given in enumerate(texts):
            parts = (given,) if isinstance(given, str) else given
            if not isinstance(parts, tuple | list) or not all(isinstance(part, str) for part in parts):
                raise DataError(f"example {index} is {str(given)[:SHOWN]!r} ({type(given).__name__}); allowed is text")
            if len(parts) != wanted:
                takes = "pairs of texts" if wanted == 2 else "single texts"
                raise DataError(f"example {index} has {len(parts)} texts, and {self.folder} is a model of {takes}")
            checked.append(tuple(parts))
        return checked

    def _tokens(self, texts: Sequence[tuple[str, ...]]) -> list[Tokens]:
        try:
            longest, side = self.interface.max_length, self.interface.truncation_side
            return tokenize(self._tokenizer, texts, longest, side, words=self.kind.READS_WORDS)
        except TypeError:  # the one kind of str that it does not take, and it does not say which
            _refuse_broken(texts)
            raise


def open_engine(folder: Path, threads: int) -> Session:
    """Opens the session of an engine folder with the engine that it was built for.

    Raises:
        EngineError: The folder is damaged, its engine is unknown here, or cannot run here.
    """
    name = read_engine(folder).engine
    if name not in registry.names("engines"):
        raise EngineError(
            f"{folder / ENGINE_FILE} is for the engine {name!r}", registry.suggest(name, registry.names("engines"))
        )
    with vendor("cannot be opened as an engine", folder, EngineError, "build the engine again", passes=(MemoryError,)):
        return registry.get("engines", name).of(Engine).open_session(folder, threads or physical_cores())


def _refuse_broken(texts: Sequence[tuple[str, ...]]) -> None:
    for index, given in enumerate(texts):
        try:
            "".join(given).encode("utf-8")
        except UnicodeEncodeError as error:
            raise DataError(f"example {index} holds a lone surrogate; allowed is valid Unicode") from error
