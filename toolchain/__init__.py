"""toolchain: from a transformer encoder to the engine you should ship, with the measurements that say so.

    report = toolchain.run("recipe.yaml")
    model = toolchain.load(toolchain.build("recipe.yaml", variant="static-int8", output="engine"))
    model.predict(["a text"])

To import it takes no time: each name is loaded when it is used first.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from toolchain.api import augment, benchmark, build, compress, export, finetune, load, optimize, run, validate
    from toolchain.core import errors
    from toolchain.deliver.report.result import Report
    from toolchain.kinds.shared.prediction import Entity, Prediction
    from toolchain.runtime.predictor import Predictor

__version__ = "0.1.0"

__all__ = [
    "Entity", "Prediction", "Predictor", "Report", "__version__", "augment", "benchmark", "build", "compress", "errors",
    "export", "finetune", "load", "optimize", "run", "validate",
]  # fmt: skip

#: Names that are not in ``api``, and the module that has each.
_ELSEWHERE = {
    "Entity": "kinds.shared.prediction", "Prediction": "kinds.shared.prediction", "Predictor": "runtime.predictor",
    "Report": "deliver.report.result", "errors": "core",
}  # fmt: skip

#: Functions whose name is that of a package folder too: the folder's module is called in their place.
_FOLDERS = ("augment", "compress", "optimize")


class _Folder(ModuleType):
    """The module of a folder of techniques, which is called as the function of its name."""

    def __call__(self, *args: Any, **settings: Any) -> Any:
        function = getattr(import_module("toolchain.api"), self.__name__.rpartition(".")[2])
        return function(*args, **settings)


class _Package(ModuleType):
    """This package: a folder of techniques that is imported becomes what can be called."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _FOLDERS and isinstance(value, ModuleType):
            value.__class__ = _Folder
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __getattr__(name: str) -> Any:
    """Load a name of the API when it is used first."""
    if name not in __all__:
        raise AttributeError(f"module 'toolchain' has no attribute {name!r}")
    if name in _FOLDERS:
        return import_module(f"toolchain.{name}")
    value = getattr(import_module(f"toolchain.{_ELSEWHERE.get(name, 'api')}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
