"""The folder is the registry: a technique is added by adding its file, ``NAME.py`` or ``NAME/__init__.py``.

What only one technique uses stands in its own folder, what several use in ``shared/``, which is no technique.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeVar

from toolchain.core import hooks, source
from toolchain.core.docstrings import docstring
from toolchain.core.errors import HookError, RecipeError

if TYPE_CHECKING:
    from toolchain.core.stage import Stage

_Room = TypeVar("_Room", bound=hooks.Declared)

PACKAGE = Path(__file__).parent.parent

#: Folders whose files are techniques that a recipe names.
FOLDERS = ("augment", "compress", "optimize", "engines", "tasks")

#: The folder whose files declare a stage each.
STAGES = "pipeline/stages"

#: The engine where nobody names one, and the one that techniques time by: it runs on every processor.
DEFAULT_ENGINE = "onnxruntime"

#: The subfolder of each for what its techniques share.
SHARED = "shared"

#: The module that declares what the others of its folder define.
CONTRACT = "contract"


@dataclass(frozen=True)
class Technique:
    """A technique's module and what it declares.

    Attributes:
        name: The name of its file or package, which is its name in recipes.
        folder: The package folder that holds it.
        module: The loaded module.
    """

    name: str
    folder: str
    module: ModuleType

    @cached_property
    def hooks(self) -> hooks.Declared:
        """What it declares, and the defaults of what it does not."""
        return hooks.ROOMS.get(self.folder, hooks.Declared)(self.module)

    def of(self, room: type[_Room]) -> _Room:
        """Return the same, with the hooks that the techniques of its folder have.

        Args:
            room: The declaration of that folder.

        Raises:
            TypeError: The technique lies in another folder.
        """
        if not isinstance(self.hooks, room):
            raise TypeError(f"{self.name} lies in {self.folder}/, and has not the hooks of {room.__name__}")
        return self.hooks

    @property
    def version(self) -> int:
        """Raised when a change alters results; part of the store's key."""
        return int(self.hooks.VERSION)

    @property
    def config(self) -> type[Any]:
        """The technique's settings: a frozen dataclass."""
        return self.hooks.Config

    @property
    def libraries(self) -> tuple[str, ...]:
        """Distributions whose versions decide the result."""
        return tuple(self.hooks.LIBRARIES)

    @property
    def summary(self) -> str:
        """First line of the docstring."""
        return next(iter(docstring(self.module).splitlines()), "")

    @cached_property
    def source_digest(self) -> str:
        """SHA-256 of the source of the technique and of what it imports of ours, directly or not; ``core/`` aside.

        Recorded so that a forgotten VERSION bump is noticed.
        """
        return source.digest(PACKAGE, str(self.module.__name__))


@cache
def names(folder: str) -> tuple[str, ...]:
    """Names of the techniques in a package folder, sorted; nothing is imported."""
    files = (path.stem for path in (PACKAGE / folder).glob("*.py") if path.name != "__init__.py")
    packages = (path.parent.name for path in (PACKAGE / folder).glob("*/__init__.py"))
    return tuple(sorted({*files, *packages} - {SHARED, CONTRACT}))


@cache
def get(folder: str, name: str) -> Technique:
    """Load one technique.

    Raises:
        RecipeError: No file or package of that name is in the folder.
        HookError: It defines a public name that is no hook, or lacks one that is required.
    """
    if name not in names(folder):
        kind = {"engines": "engine", "tasks": "task", "kinds": "kind of task"}.get(folder, "technique")
        raise RecipeError(f"unknown {kind} {name!r}", suggest(name, names(folder)))
    module = importlib.import_module(f"toolchain.{folder}.{name}")
    check_hooks(name, folder, module)
    return Technique(name, folder, module)


def check_hooks(name: str, folder: str, module: ModuleType) -> None:
    """Raise HookError if a technique's module has a public name that is no hook, or lacks a required one.

    Args:
        name: The technique.
        folder: The package folder that it lies in.
        module: Its module.
    """
    room = hooks.ROOMS[folder]
    if unknown := hooks.unknown(room, module):
        meant = {hook.casefold(): hook for hook in sorted(hooks.names(room))}
        close = [meant[hook] for hook in difflib.get_close_matches(unknown[0].casefold(), meant, n=1, cutoff=0.75)]
        private = f"a name of the module's own begins with an underscore; what is shared stands in {folder}/{SHARED}/"
        raise HookError(
            f"{folder}/{name}: {unknown[0]!r} is not a hook of a technique in {folder}/",
            f"did you mean {close[0]!r}? {private}" if close else private,
        )
    if missing := hooks.missing(room, module):
        raise HookError(
            f"{folder}/{name}: {missing[0]} is missing, which every technique in {folder}/ defines",
            "toolchain/core/hooks.py says what it is",
        )


@cache
def stages() -> dict[str, Stage]:
    """Return the stages in the order in which they run, each by the name of its file."""
    loaded = [importlib.import_module(f"toolchain.pipeline.stages.{name}").STAGE for name in names(STAGES)]
    return {stage.name: stage for stage in sorted(loaded, key=lambda stage: stage.order)}


def stage_in(record: Mapping[str, Any]) -> Stage | None:
    """Return the stage that a record names, of a manifest's parts or a history; None of one that is not known here."""
    name = record.get("stage")
    return stages().get(name) if isinstance(name, str) else None


def single() -> tuple[str, ...]:
    """Return the names of the stages with one way to do them."""
    return tuple(name for name, stage in stages().items() if stage.module)


@cache
def stage(name: str) -> Technique:
    """Return the module of a stage that has one way to do it."""
    dotted = stages()[name].module
    return Technique(name, dotted.split(".")[0], importlib.import_module(f"toolchain.{dotted}"))


def variant_folders() -> tuple[str, ...]:
    """Return the folders whose techniques may stand in a variant."""
    return tuple(stage.folder for stage in stages().values() if stage.variant and stage.folder)


def folder_of(name: str) -> str | None:
    """The folder of the technique with this name among those that may stand in a variant, or None."""
    return next((folder for folder in variant_folders() if name in names(folder)), None)


def suggest(name: str, allowed: Iterable[str]) -> str:
    """``did you mean …?`` when something is close, and what is allowed."""
    options = sorted(allowed)
    close = difflib.get_close_matches(name, options, n=1)
    listed = f"known: {', '.join(options) or 'none'}"
    return f"did you mean {close[0]!r}? {listed}" if close else listed
