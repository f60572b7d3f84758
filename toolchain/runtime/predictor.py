"""Text in, labels out: tokenizer, batches of like length, engine. What measures, predicts and serves all run this.

Nothing here, and nothing that it imports, loads PyTorch or transformers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from toolchain.core import registry
from toolchain.core.errors import DataError, EngineError, ModelError
from toolchain.core.session import Session
from toolchain.engines._artifact import ENGINE_FILE, read_engine
from toolchain.runtime.interface import read_interface

if TYPE_CHECKING:
    from numpy.typing import NDArray

TOKENIZER_FILE = "tokenizer.json"

#: Characters of a bad text that an error repeats.
SHOWN = 40


@dataclass(frozen=True, slots=True)
class Encoded:
    """One example as tokens, the special ones included and cut to the model's length.

    Attributes:
        ids: Token ids.
        type_ids: Segment of every token.
    """

    ids: list[int]
    type_ids: list[int]

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, slots=True)
class Prediction:
    """The likeliest label of one example.

    Attributes:
        label: Its name.
        probability: Its probability, of 0 to 1.
    """

    label: str
    probability: float


class Predictor:
    """An engine with its tokenizer.

    Args:
        folder: An engine folder: ``engine.json``, ``interface.json``, ``tokenizer.json`` and the engine's own files.
        threads: Threads that compute one batch; 0 leaves it to the runtime.
        session: The folder's engine, where it is open already.

    Attributes:
        interface: What is known of the model.
        labels: Class names, in the order of the logits.
        session: The loaded engine.

    Raises:
        ModelError: ``interface.json`` or ``tokenizer.json`` is missing or damaged.
        EngineError: The engine is missing or damaged, or cannot run here.
    """

    def __init__(self, folder: Path, threads: int = 0, session: Session | None = None) -> None:
        self.folder = folder
        self.interface = read_interface(folder)
        self.labels = self.interface.labels
        self._tokenizer = load_tokenizer(folder / TOKENIZER_FILE, self.interface.max_length)
        self.session = session if session is not None else open_engine(folder, threads)

    def encode(self, texts: Sequence[tuple[str, ...] | str]) -> list[Encoded]:
        """Turns texts into tokens.

        Args:
            texts: One tuple per example: one string, or two for a model of pairs. A bare string counts as one.

        Raises:
            DataError: An example is not text, or has another number of texts than the model takes.
        """
        if not len(texts):
            return []
        checked = self._checked(texts)
        try:
            encodings = self._tokenizer.encode_batch_fast(checked)
        except TypeError as error:  # the one kind of str that it does not take, and it does not say which
            broken = next((i for i, given in enumerate(checked) if _is_broken(given)), None)
            if broken is None:
                raise
            raise DataError(f"example {broken} holds a lone surrogate; allowed is valid Unicode") from error
        return [Encoded(encoding.ids, encoding.type_ids) for encoding in encodings]

    def collate(self, encoded: Sequence[Encoded]) -> dict[str, NDArray[np.int64]]:
        """Makes one batch, padded to its longest example.

        Returns:
            Those inputs that the engine reads, each ``[batch, tokens]``.
        """
        shape = (len(encoded), max(map(len, encoded), default=0))
        batch = {}
        if "input_ids" in self.session.inputs:
            ids = batch["input_ids"] = np.full(shape, self.interface.pad_id, dtype=np.int64)
            for row, example in zip(ids, encoded, strict=True):
                row[: len(example)] = example.ids
        if "attention_mask" in self.session.inputs:
            lengths = np.fromiter(map(len, encoded), dtype=np.int64, count=len(encoded))
            batch["attention_mask"] = (np.arange(shape[1]) < lengths[:, None]).astype(np.int64)
        if "token_type_ids" in self.session.inputs:
            types = batch["token_type_ids"] = np.full(shape, self.interface.pad_type_id, dtype=np.int64)
            for row, example in zip(types, encoded, strict=True):
                row[: len(example)] = example.type_ids
        return batch

    def batches(
        self, encoded: Sequence[Encoded], batch_size: int = 32, sort: bool = True
    ) -> Iterator[tuple[list[int], dict[str, NDArray[np.int64]]]]:
        """Splits examples into batches.

        Args:
            encoded: Examples as tokens.
            batch_size: Examples per batch, from 1.
            sort: Batch examples of like length, the longest first, so that little is padded; otherwise as they come.

        Yields:
            Positions of a batch's examples, and the batch.
        """
        order = list(range(len(encoded)))
        if sort:
            order.sort(key=lambda index: -len(encoded[index]))
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            yield chosen, self.collate([encoded[index] for index in chosen])

    def logits(
        self, texts: Sequence[tuple[str, ...] | str], batch_size: int = 32, sort: bool = True
    ) -> NDArray[np.float32]:
        """Runs the engine on texts.

        Args:
            texts: One tuple per example.
            batch_size: Examples per batch, from 1.
            sort: Batch examples of like length.

        Returns:
            ``[examples, labels]``, in the order of the texts whatever the batches.

        Raises:
            DataError: An example is not what the model takes.
            EngineError: The engine failed, or gave another number of logits than the model has labels.
        """
        return self.encoded_logits(self.encode(texts), batch_size, sort)

    def encoded_logits(
        self, encoded: Sequence[Encoded], batch_size: int = 32, sort: bool = True
    ) -> NDArray[np.float32]:
        """Like ``logits``, of what ``encode`` gave."""
        if batch_size < 1:
            raise DataError(f"batch_size is {batch_size}; allowed are whole numbers from 1")
        found = np.empty((len(encoded), len(self.labels)), dtype=np.float32)
        for chosen, batch in self.batches(encoded, batch_size, sort):
            answer = self.session.run(batch)
            if answer.shape != (len(chosen), len(self.labels)):
                raise EngineError(
                    f"{self.folder} answered {len(chosen)} examples with the shape {answer.shape}; its interface.json "
                    f"has {len(self.labels)} labels: {', '.join(self.labels)}"
                )
            found[chosen] = answer
        return found

    def probabilities(
        self, texts: Sequence[tuple[str, ...] | str], batch_size: int = 32, sort: bool = True
    ) -> NDArray[np.float32]:
        """Like ``logits``, as probabilities: every row sums to 1."""
        return softmax(self.logits(texts, batch_size, sort))

    def predict(self, texts: Sequence[tuple[str, ...] | str], batch_size: int = 32) -> list[Prediction]:
        """The likeliest label of every text, in the order of the texts."""
        probabilities = self.probabilities(texts, batch_size)
        best = probabilities.argmax(axis=1) if len(probabilities) else []
        return [Prediction(self.labels[k], float(row[k])) for k, row in zip(best, probabilities, strict=True)]

    def _checked(self, texts: Sequence[tuple[str, ...] | str]) -> list[Any]:
        if isinstance(texts, str):
            raise DataError(f"one text was given, {texts[:SHOWN]!r}; allowed is a list of them")
        wanted = 2 if self.interface.pair else 1
        checked: list[Any] = []
        for index, given in enumerate(texts):
            parts = (given,) if isinstance(given, str) else given
            if not isinstance(parts, tuple | list) or not all(isinstance(part, str) for part in parts):
                raise DataError(f"example {index} is {str(given)[:SHOWN]!r} ({type(given).__name__}); allowed is text")
            if len(parts) != wanted:
                takes = "pairs of texts" if wanted == 2 else "single texts"
                raise DataError(f"example {index} has {len(parts)} texts, and {self.folder} is a model of {takes}")
            checked.append(tuple(parts) if wanted == 2 else parts[0])
        return checked


def load_tokenizer(path: Path, max_length: int) -> Any:
    """Loads ``tokenizer.json``, cutting to a length and not padding.

    Raises:
        ModelError: The file is missing or damaged, or the length leaves no room beside the special tokens.
    """
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_str(path.read_text(encoding="utf-8"))
        tokenizer.no_padding()
        tokenizer.enable_truncation(max_length)
    except FileNotFoundError as error:
        raise ModelError(f"{path} is missing", "the model's own fast tokenizer goes with it") from error
    except Exception as error:  # tokenizers raises plain Exception
        raise ModelError(f"{path} cannot be used as a tokenizer cut at {max_length} tokens: {error}") from error
    return tokenizer


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
    session: Session = registry.get("engines", name).module.open_session(folder, threads)
    return session


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Probabilities of logits, ``[examples, labels]``; each row is shifted by its largest, so that none overflows."""
    powers = np.exp(logits - logits.max(axis=1, keepdims=True, initial=-np.inf))
    found: NDArray[np.float32] = powers / powers.sum(axis=1, keepdims=True)
    return found


def _is_broken(given: str | tuple[str, ...]) -> bool:
    try:
        "".join(given).encode("utf-8")
    except UnicodeEncodeError:
        return True
    return False
