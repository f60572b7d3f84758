"""What a file in ``kinds/`` may define: each with its type, its meaning, and what holds where it is left out.

A kind imports numpy alone when it is loaded, and torch only inside functions: deployments load kinds. Arrays are
numpy's unless a function says that they are tensors. Outputs go by their names in ``OUTPUTS``, one row for each row
that an engine computes; answers are one for each example, which may have been several rows. They are one array,
``[examples, …]``: where an example has fewer numbers than another, zeros follow, by which a kind knows that nothing is
there (``kinds.joined``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np

from toolchain.core.hooks import ROOMS, Declared
from toolchain.kinds.shared.prediction import Prediction

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from toolchain.core.data import Split

_Row = TypeVar("_Row")


@dataclass(frozen=True)
class Output:
    """An output of a model's graph.

    Attributes:
        name: Its name in the graph.
        axes: What each axis counts: ``batch`` first, then ``tokens`` where there is that axis, then ``labels``, or a
            size that the model decides.
    """

    name: str
    axes: tuple[str, ...]


@dataclass(frozen=True)
class Metric:
    """The figure that models of a kind are judged by.

    Attributes:
        name: Its name, in words.
        unit: What stands behind the figure where it is shown, ``%`` or nothing. It is shown a hundredfold.
        greater_is_better: Whether a greater figure is a better one.
        binary: Whether each example counts 0 or 1, so that Wilson's and McNemar's statistics hold.
    """

    name: str
    unit: str = ""
    greater_is_better: bool = True
    binary: bool = False

    @property
    def title(self) -> str:
        """Its name, as a sentence begins with it."""
        return self.name[:1].upper() + self.name[1:]

    @property
    def heading(self) -> str:
        """Its name and unit, as a column is headed: ``accuracy %``."""
        return f"{self.name} {self.unit}".rstrip()

    @property
    def axis(self) -> str:
        """Its name and unit, as an axis is called: ``accuracy, %``."""
        return f"{self.name}, {self.unit}" if self.unit else self.name

    def shown(self, figure: float, digits: int = 2) -> str:
        """Return a figure as people read it, such as ``91.25 %`` of 0.9125."""
        return f"{100 * figure:.{digits}f} {self.unit}".rstrip()


@dataclass(frozen=True)
class Agreement:
    """How answers agree with those that are expected.

    Attributes:
        differs: Which examples are answered otherwise, by what gates count, ``[examples]``.
        undecided: Which examples both decide by so little that a difference is a toss-up, ``[examples]``.
        distance: How far each example's answer has moved, ``[examples]``: the largest difference of a number in it, or
            what the kind has in its place.
    """

    differs: NDArray[np.bool_]
    undecided: NDArray[np.bool_]
    distance: NDArray[np.floating[Any]]


@dataclass(frozen=True)
class FromFolder:
    """What a kind reads of a checkpoint that is taken in, besides its weights, its config and its tokenizer.

    Attributes:
        config: What its ``config.json`` is to say besides.
        max_length: Tokens after which it cuts a text; None where the model's positions and its tokenizer decide.
        notes: What is worth noting.
    """

    config: Mapping[str, Any] = field(default_factory=dict)
    max_length: int | None = None
    notes: tuple[str, ...] = ()


class Kind(Declared):
    """A kind of task: a file in ``kinds/``."""

    _folder = "kinds"
    _required = ("HEAD", "OUTPUTS", "METRIC")

    def __str__(self) -> str:
        """Return the name of its file."""
        return self._module.__name__.rpartition(".")[2]

    #: What transformers calls a model of this kind, behind ``AutoModelFor``; "" for an encoder without a head.
    HEAD: str
    #: Every output of the graph, in its order.
    OUTPUTS: tuple[Output, ...]
    #: What models are judged by.
    METRIC: Metric
    #: What the head of a checkpoint is for that this kind takes in, in the words of ``model/heads.py``.
    HEADS: tuple[str, ...] = ()
    #: What stands in place of a task's labels, such as ``score``; () where the data have labels of their own.
    NAMES: tuple[str, ...] = ()
    #: What makes probabilities of logits, an ONNX operator: a graph that ends with it is taken in without it; "" where
    #: answers are no probabilities.
    ACTIVATION: Literal["Softmax", "Sigmoid", ""] = ""
    #: Columns of text that data must have; 0 where one and two will do.
    TEXTS: int = 0
    #: What an augmentation of a text must keep: its label, the labels of words or the place of spans; none where no
    #: augmentation keeps the answer.
    LABELS: Literal["text", "word", "span", "none"] = "none"
    #: The task, a file in ``tasks/``, that reads a user's data of this kind.
    TASK: str = "files"
    #: Whether examples form groups that are judged together, such as the passages of a query.
    GROUPED: bool = False
    #: What messages call the answers: ``label`` and ``labels``.
    WORDS: tuple[str, str] = ("answer", "answers")
    #: Whether rows are to say where the words of their text are, ``Tokens.words``.
    READS_WORDS: bool = False
    #: Whether ``of_labels`` gives hooks that hold for a model's labels alone.
    DEPENDS_ON_LABELS: bool = False
    #: Techniques that cannot be taken for this kind, by name, and why.
    REFUSED: Mapping[str, str] = MappingProxyType({})

    def of_labels(self, labels: Sequence[str]) -> Mapping[str, Callable[..., Any]]:
        """Return the hooks that depend on what a model's labels are called, by name; they take the others' place.

        Args:
            labels: Names in the order of the model's outputs.
        """
        return {}

    def head_config(self, labels: Sequence[str]) -> dict[str, Any]:
        """Return what ``config.json`` says of a new head for these labels."""
        names = {"id2label": dict(enumerate(labels)), "label2id": {name: i for i, name in enumerate(labels)}}
        return {"num_labels": len(labels), **names}

    def recognizes(self, values: Sequence[Any]) -> bool:
        """Return whether the cells of a label column look like answers of this kind, for a first recipe."""
        return False

    def read_gold(self, value: Any) -> Any:
        """Return a gold answer as a cell of a data file has it, of a kind that has ``NAMES``.

        Args:
            value: The cell.

        Raises:
            ValueError: It is not such an answer; the text says what is wrong.
        """
        raise NotImplementedError

    def grouped(self, gold: Any, group: int) -> Any:
        """Return the gold answer of an example of a group, of a kind with ``GROUPED``.

        Args:
            gold: What ``read_gold`` gave.
            group: Number of the group.
        """
        return gold

    def cell_labels(self, value: Any) -> Sequence[Any]:
        """Return the labels that a cell of a data file names, of a kind whose data have labels of their own.

        Args:
            value: The cell.
        """
        return (value,)

    def gold_of(self, indices: Sequence[int], labels: int) -> Any:
        """Return the gold answer of an example, of a kind whose data have labels of their own.

        Args:
            indices: The labels that the example has, each once; one for each of ``cell_labels``.
            labels: How many labels the task has.
        """
        return indices[0]

    def classes(self, gold: Any) -> Sequence[int]:
        """Return the indices of the labels that an example has; none where labels are no part of its answer."""
        return ()

    def arranged(self, rows: Split) -> Split:
        """Return examples as a model reads them, of rows as a data file has them."""
        return rows

    def from_folder(self, folder: Path) -> FromFolder:
        """Return what the other files of a checkpoint say that is taken in.

        Raises:
            ModelError: They ask for what is not served, or are damaged.
        """
        return FromFolder()

    def reordered(self, gold: Sequence[Any], index: Sequence[int]) -> list[Any]:
        """Return gold answers as a model counts its labels.

        Args:
            gold: Gold answers by the task's labels.
            index: For each label of the task, its index in the model.
        """
        return list(gold)

    def relabelled(self, answers: NDArray[Any], index: Sequence[int]) -> NDArray[Any]:
        """Return answers, not activated, with their labels in another order: ``index[k]`` becomes the k-th."""
        return answers[:, list(index)]

    def targets(self, gold: Sequence[Any], rows: Sequence[Any], width: int, padding_side: str) -> Any:
        """Return what ``loss`` is to find as ``labels`` of a batch, as numbers ``[batch, …]``.

        Args:
            gold: Gold answers of the batch's examples.
            rows: Their tokens, a ``Tokens`` each.
            width: Tokens of the batch.
            padding_side: Where the padding stands.
        """
        return list(gold)

    def taught(self, answers: Sequence[Any], rows: Sequence[Any], width: int, padding_side: str) -> Any:
        """Return what ``soft_loss`` is to find as the teacher's answers of a batch, as numbers ``[batch, …]``.

        Args:
            answers: A teacher's answers to the batch's examples.
            rows: Their tokens, as the student reads them, a ``Tokens`` each.
            width: Tokens of the batch.
            padding_side: Where the padding stands.
        """
        return np.asarray(answers, dtype=np.float32)

    def forward(self, model: Any, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Return a PyTorch model's outputs by name, as tensors; pooling and the like belong here."""
        found = model(**inputs)
        return {output.name: getattr(found, output.name) for output in self.OUTPUTS}

    def rows(self, encoded: Sequence[_Row], max_length: int) -> tuple[Sequence[_Row], Sequence[int]]:
        """Return the rows that an engine computes, and the position of the example that each belongs to.

        Args:
            encoded: One for each example.
            max_length: Tokens that a row may have.
        """
        return encoded, range(len(encoded))

    def fold(self, owners: Sequence[int], outputs: Mapping[str, NDArray[Any]], rows: Sequence[Any]) -> NDArray[Any]:
        """Return the answer of each example, ``[examples, …]``, from the outputs of its rows.

        Args:
            owners: The example of each row, as ``rows`` gives them.
            outputs: Every output, ``[rows, …]``; where there is an axis of tokens, it begins with a row's first.
            rows: The rows themselves, a ``Tokens`` each, or a ``Raw`` where the engine tokenizes.
        """
        return outputs[self.OUTPUTS[0].name]

    def activate(self, answers: NDArray[Any]) -> NDArray[Any]:
        """Return answers as they are shown and kept, such as probabilities of logits; of their own precision."""
        return answers

    def deactivate(self, answers: NDArray[Any]) -> NDArray[Any]:
        """Return activated answers as ``score`` and ``agree`` take them, of a kind where activation matters to them."""
        return answers

    def decode(
        self, answers: NDArray[Any], labels: Sequence[str], texts: Sequence[tuple[str, ...]] = ()
    ) -> list[Prediction]:
        """Return what activated answers say, for people.

        Args:
            answers: Activated answers.
            labels: The model's labels.
            texts: The texts that they answer; none where nobody has them.
        """
        raise NotImplementedError

    def loss(self, outputs: Mapping[str, Any], batch: Mapping[str, Any], reduction: str = "mean") -> Any:
        """Return the loss against ``labels`` of a batch, a scalar; tensors.

        Args:
            outputs: The model's outputs by name, single precision.
            batch: ``labels``, as ``targets`` gives them, and the model's inputs.
            reduction: ``mean`` or ``sum`` over the examples.
        """
        raise NotImplementedError

    def soft_loss(self, outputs: Mapping[str, Any], teacher: Any, batch: Mapping[str, Any], temperature: float) -> Any:
        """Return the loss against a teacher's answers, a scalar; tensors.

        Args:
            outputs: The student's outputs by name, single precision.
            teacher: The teacher's answers, as ``taught`` gives them.
            batch: The model's inputs.
            temperature: T, by which both are softened.
        """
        raise NotImplementedError

    def blend(self, teachers: Sequence[NDArray[Any]], temperature: float) -> NDArray[np.float64]:
        """Return answers in which several teachers count alike.

        Args:
            teachers: Each one's answers.
            temperature: T, by which they are softened when they are learned from.
        """
        raise NotImplementedError

    def compared(self, outputs: Mapping[str, Any]) -> Any:
        """Return what two models are compared by, ``[rows, …]``, from a model's outputs; double precision tensors."""
        return outputs[self.OUTPUTS[0].name].double()

    def losses(self, compared: NDArray[np.float64], gold: Any) -> NDArray[np.float64]:
        """Return the loss of each example, ``[examples]``, from what ``compared`` gives."""
        raise NotImplementedError

    def divergence(self, expected: NDArray[np.float64], found: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return how far each example's answer is from the expected one, ``[examples]``, by what ``compared`` gives."""
        raise NotImplementedError

    def score(self, answers: NDArray[Any], gold: Any) -> NDArray[np.float64]:
        """Return what the metric needs of each example, ``[examples, k]``.

        Args:
            answers: Answers, not activated, or as ``deactivate`` gives them.
            gold: Gold answers.
        """
        raise NotImplementedError

    def combine(self, scores: NDArray[np.float64]) -> float:
        """Return the metric of scored examples."""
        return float(scores[:, 0].mean())

    def doubt(self, scores: NDArray[np.float64]) -> str:
        """Return what should be asked of a model with these scores on dev; '' where nothing is odd."""
        return ""

    def resampled(self, scores: NDArray[np.float64], counts: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the metric of each of several resamples of examples, ``[resamples]``.

        Args:
            scores: What the metric needs of each example, ``[examples, k]``.
            counts: How often each example is drawn, ``[resamples, examples]``.
        """
        return np.array([self.combine(np.repeat(scores, drawn, axis=0)) for drawn in counts], dtype=np.float64)

    def agree(self, expected: NDArray[Any], found: NDArray[Any], decided: float = 0.0) -> Agreement:
        """Compare two models' answers to the same examples, of equal shape.

        Args:
            expected: What is right; not activated.
            found: What is judged.
            decided: A lead below this is a toss-up.
        """
        raise NotImplementedError

    def margin(self, answers: NDArray[Any]) -> NDArray[Any]:
        """Return by how much each activated answer is decided, in what ``agree`` measures, ``[examples]``."""
        raise NotImplementedError


ROOMS[Kind._folder] = Kind
