"""What a technique's module may declare: every hook with its type, its meaning, and what holds where it is left out.

A module is ``NAME.py`` or ``NAME/__init__.py`` in a package folder, and declares a hook by a function or a constant of
that name. What asks for one goes through :meth:`toolchain.core.registry.Technique.of`, which gives the module's own or
the default here; nothing else asks a module what it has. What a module defines beside its hooks is private: its names
begin with an underscore, or stand in ``shared/`` or in another module of the technique's own folder.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

from toolchain.core.data import CLASSIFICATION

if TYPE_CHECKING:
    from toolchain.core.data import Dataset
    from toolchain.core.session import Session
    from toolchain.core.stage import Context, Metrics

#: A constant that a module defines, ``NAME = …`` or ``NAME: type = …`` at its left edge, and others beside it. A test
#: holds that a syntax tree says the same, which takes longer than all else that loading does.
_CONSTANT = re.compile(r"^([A-Za-z]\w*(?:, *\w+)*)(?:: [^\n=]+)? = ", re.MULTILINE)

#: What a technique does to a model, by which a report colours it.
Method = Literal["quantized", "pruned", "distilled", "factorized", "other"]

#: Why something cannot be, and what to do instead; None where it can.
Refusal = tuple[str, str] | None


class NewWeights(Protocol):
    """An engine, and a graph that is the engine's own but for the numbers of its weights."""

    @property
    def config(self) -> Mapping[str, Any]:
        """The settings that the engine was built with."""
        ...

    @property
    def inputs(self) -> Sequence[str]:
        """SHA-256 of what is refitted, and of each file of the graph."""
        ...

    @property
    def libraries(self) -> Mapping[str, str | None]:
        """Versions of the libraries that do it, by distribution or module."""
        ...

    @property
    def changes(self) -> str:
        """How much differs, in a few words."""
        ...

    def fingerprint(self) -> dict[str, Any]:
        """Return the facts of the device that decide the result."""
        ...

    def check_device(self) -> None:
        """Raise EngineError or MissingPackageError if it cannot be done on this machine."""
        ...

    def apply(self, out: Path) -> Metrics:
        """Write the new engine folder."""
        ...


class Declared:
    """What every technique may declare.

    Args:
        module: The technique's module; what it declares stands in place of the defaults here.
    """

    #: Raised when a change alters results: it is part of the store's key.
    VERSION: int
    #: The settings, a frozen dataclass; each field has its range and its default.
    Config: type[Any]
    #: Distributions whose versions decide the result.
    LIBRARIES: tuple[str, ...] = ()

    _module: ModuleType
    #: The package folder whose techniques are declared so; empty where any may be.
    _folder: ClassVar[str] = ""
    _required: ClassVar[tuple[str, ...]] = ("VERSION", "Config")
    #: Hooks that another one needs: ``{hook: needed}``.
    _needs: ClassVar[Mapping[str, str]] = MappingProxyType({})

    def __init__(self, module: ModuleType) -> None:
        object.__setattr__(self, "_module", module)

    def __getattribute__(self, name: str) -> Any:
        own = vars(object.__getattribute__(self, "_module"))
        if name in own and name in names(type(self)):
            return own[name]
        return object.__getattribute__(self, name)

    def fingerprint(self, config: Any) -> dict[str, Any]:
        """Return facts beside settings and versions that decide the result, such as the processor's instructions."""
        return {}

    def tunes(self, config: Any) -> bool:
        """Return whether the result depends on dev texts and on the number of threads."""
        return False

    def requires(self, history: Sequence[str]) -> str | None:
        """Return why the technique may not stand behind these stages and techniques, or None."""
        return None

    def teachers(self, config: Any) -> tuple[str, ...]:
        """Return who teaches: ``before``, what stands before it, ``MODEL.finetune``, or a model from outside."""
        return ()

    def fits_task(self, config: Any, pairs: Callable[[], bool]) -> Refusal:
        """Return why a task's texts cannot be taken; ``pairs`` reads the data to say whether they are pairs."""
        return None


class Augmentation(Declared):
    """A way to make more training examples: a file in ``augment/``."""

    _folder = "augment"
    _required = ("VERSION", "Config", "apply")
    _needs = MappingProxyType({"sources": "HEAD"})

    #: What ``AutoModelFor…`` ends with, of the models that it needs; goes with ``sources``.
    HEAD: Literal["MaskedLM", "Seq2SeqLM", "CausalLM"]

    def apply(self, source: Path | None, out: Path, config: Any, context: Context) -> Metrics:
        """Write the examples to a folder; required."""
        raise NotImplementedError

    def fits(self, config: Any) -> Refusal:
        """Return why these settings cannot be carried out."""
        return None

    def sources(self, config: Any) -> tuple[str, ...]:
        """Return the models that it needs, as a recipe names them."""
        return ()

    def identity(self, config: Any) -> dict[str, Any] | None:
        """Return what of the settings decides the result, such as the content of a file; None where all of them do."""
        return None


class Compression(Declared):
    """A technique that makes a checkpoint of a checkpoint: a file in ``compress/``."""

    _folder = "compress"
    _required = ("VERSION", "Config", "apply")

    #: What it does to a model, by which a report colours it.
    METHOD: Method = "other"

    def apply(self, source: Path, out: Path, config: Any, context: Context) -> Metrics:
        """Write a whole checkpoint; required."""
        raise NotImplementedError

    def fits(self, config: Any, shape: Any) -> Refusal:
        """Return why a model of this shape cannot be taken under these settings."""
        return None

    def leaves(self, config: Any, shape: Any) -> Any:
        """Return the shape of what comes of a model of this shape."""
        return shape

    def fits_teacher(self, config: Any, student: Any, teacher: Any) -> Refusal:
        """Return why a teacher of this shape cannot teach a student of that shape."""
        return None

    def asks(self, config: Any) -> bool:
        """Return whether it reads its teachers' answers to the training examples."""
        return True

    def reads_alike(self, config: Any) -> bool:
        """Return whether teacher and student must cut texts into the same tokens."""
        return False

    def exports(self, config: Any) -> str:
        """Return the dialect that its checkpoint is exported to, where it has made integers of weights; else ''."""
        return ""


class GraphPass(Declared):
    """A technique that makes a graph of a graph: a file in ``optimize/``."""

    _folder = "optimize"
    _required = ("VERSION", "Config", "apply", "TAKES", "GIVES or gives", "AGREEMENT")

    #: Dialects that it takes.
    TAKES: tuple[str, ...]
    #: Dialect that it gives; ``gives`` where that depends.
    GIVES: str
    #: Least share of dev sentences whose label must be that of the float graph; 1.0 claims to change nothing.
    AGREEMENT: float
    #: What it does to a model, by which a report colours it.
    METHOD: Method = "other"

    def apply(self, source: Path, out: Path, config: Any, context: Context) -> Metrics:
        """Write ``model.onnx``; required."""
        raise NotImplementedError

    def gives(self, config: Any, taken: str) -> str:
        """Return the dialect that it gives under these settings, of a graph of that dialect."""
        return self.GIVES


class Engine(Declared):
    """A runtime: a file in ``engines/``."""

    _folder = "engines"
    _required = ("VERSION", "Config", "build", "open_session", "ACCEPTS")

    #: Dialects that it builds from; ``checkpoint`` for one that runs checkpoints.
    ACCEPTS: tuple[str, ...]
    #: Packages that a session imports: their import is timed apart from loading.
    MODULES: tuple[str, ...] = ()
    #: Where it runs, where it has one place; empty where that is a setting, or the processor.
    DEVICE: str = ""
    #: Execution providers by the names that its setting ``provider`` has for them; empty where it has none.
    PROVIDERS: Mapping[str, str] = MappingProxyType({})
    #: The extra of this package that brings it; empty where none does.
    EXTRA: str = ""
    #: Those of ``PROVIDERS`` that run on an NVIDIA GPU.
    GPU_PROVIDERS: tuple[str, ...] = ()
    #: Distributions that bring each of its libraries, where several do; the last one brings ``GPU_PROVIDERS``.
    DISTRIBUTIONS: Mapping[str, tuple[str, ...]] = MappingProxyType({})
    #: Whether these distributions overwrite each other's files, so that only one may be installed.
    EXCLUSIVE: bool = False
    #: Environment variables by which its runtime computes as on a processor with AVX2 alone; empty where none does.
    NARROWED_BY: Mapping[str, str] = MappingProxyType({})

    def build(self, source: Path, out: Path, config: Any, context: Context) -> Metrics:
        """Write an engine folder; required."""
        raise NotImplementedError

    def open_session(self, folder: Path, threads: int) -> Session:
        """Open an engine folder; required."""
        raise NotImplementedError

    def profiled(self, config: Any) -> bool:
        """Return whether batch sizes are built in: the recipe's are taken where none are named."""
        return False

    def absent(self, config: Any) -> str:
        """Return why it cannot run on this machine, or ''."""
        return ""

    def unbuilt(self, config: Any) -> str:
        """Return why it cannot be built on this machine, or ''."""
        return ""

    def lacks(self, provider: str) -> str:
        """Return what this machine lacks for one of its providers, or ''."""
        return ""

    def holds_code(self, record: Mapping[str, Any]) -> bool:
        """Return whether an engine holds native code; ``record`` is what ``engine.json`` has beside its options."""
        return False

    def check_code(self, folder: Path) -> None:
        """Raise EngineError if native code in an engine folder is not what was built."""

    def new_weights(self, folder: Path, source: Path) -> NewWeights | None:
        """Return how an engine is given a graph's weights; None where engines of this kind cannot be.

        Raises:
            EngineError: This engine cannot be, or the graph is not the one that it was built from.
            ModelError: The graph is missing or damaged.
        """
        return None


class Task(Declared):
    """A data set: a file in ``tasks/``."""

    _folder = "tasks"
    _required = ("VERSION", "Config", "load", "identity")

    def load(self, config: Any) -> Dataset:
        """Return the examples; required."""
        raise NotImplementedError

    def identity(self, config: Any) -> dict[str, Any]:
        """Return what decides the data: digests of files, not their places; required."""
        raise NotImplementedError

    def kind(self, config: Any) -> str:
        """Return the kind of task, a file in ``kinds/``."""
        return CLASSIFICATION

    def held_here(self, config: Any) -> bool:
        """Return whether the data are files of this machine, which can be read without downloading."""
        return False


#: The declarations, by package folder.
ROOMS: dict[str, type[Declared]] = {
    room._folder: room for room in (Augmentation, Compression, GraphPass, Engine, Task)
}  # fmt: skip


def names(room: type[Declared]) -> frozenset[str]:
    """Return the names of the hooks that a technique may declare."""
    if room not in _NAMES:
        own = [vars(each) for each in room.__mro__[:-1]]
        declared = {name for each in own for name in (*each, *each.get("__annotations__", ()))}
        _NAMES[room] = frozenset(name for name in declared if not name.startswith("_"))
    return _NAMES[room]


_NAMES: dict[type[Declared], frozenset[str]] = {}


def defined(module: ModuleType) -> set[str]:
    """Return the public names that a module defines itself, leaving out what it imports."""
    own = {
        name for name, value in vars(module).items()
        if (inspect.isfunction(value) or inspect.isclass(value)) and value.__module__ == module.__name__
    }  # fmt: skip
    text = Path(str(module.__file__)).read_text("utf-8")
    own |= {name for names_ in _CONSTANT.findall(text) for name in re.split(", *", names_)} & vars(module).keys()
    return {name for name in own if not name.startswith("_")}


def unknown(room: type[Declared], module: ModuleType) -> list[str]:
    """Return the public names that a technique defines and its folder declares no hook for, sorted."""
    return sorted(defined(module) - names(room))


def required(room: type[Declared]) -> tuple[str, ...]:
    """Return the hooks that have no default; of ``one or another``, either."""
    return room._required


def missing(room: type[Declared], module: ModuleType) -> list[str]:
    """Return the required hooks that a technique has not."""
    own = vars(module).keys()
    needed = [*required(room), *(hook for other, hook in room._needs.items() if other in own)]
    return [hook for hook in needed if not own & set(hook.split(" or "))]
