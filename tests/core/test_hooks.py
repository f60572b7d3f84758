from __future__ import annotations

import inspect
from types import ModuleType

import pytest

from toolchain.core import hooks, registry


def test_a_hook_that_a_technique_does_not_declare_has_its_default() -> None:
    prune = hooks.Compression(ModuleType("toy"))
    assert (prune.asks(None), prune.fits_task(None, lambda: True)) == (True, None)
    assert prune.leaves(None, "the shape that came") == "the shape that came"
    assert (prune.teachers(None), prune.reads_alike(None)) == ((), False)
    assert registry.get("engines", "pytorch").of(hooks.Engine).DEVICE == ""


def test_a_hook_that_a_technique_declares_is_its_own() -> None:
    distill = registry.get("compress", "distill")
    config = distill.config(teacher="model.finetune")
    assert distill.of(hooks.Compression).teachers(config) == distill.module.teachers(config) == ("model.finetune",)
    assert registry.get("engines", "tensorrt").of(hooks.Engine).DEVICE == "GPU"


def test_only_declared_names_are_taken_from_a_module() -> None:
    module = ModuleType("toy")
    module.__dict__.update(VERSION=3, TAKES=("qdq",), names=1, _module=2, unknown=4)
    declared = hooks.GraphPass(module)
    assert (declared.VERSION, declared.TAKES) == (3, ("qdq",))
    assert declared._module is module
    with pytest.raises(AttributeError):
        _ = declared.unknown
    with pytest.raises(AttributeError):
        _ = declared.GIVES  # required, and not there


def test_the_hooks_of_another_folder_are_refused() -> None:
    with pytest.raises(TypeError, match=r"clean lies in optimize/, and has not the hooks of Engine"):
        registry.get("optimize", "clean").of(hooks.Engine)


@pytest.mark.parametrize("room", hooks.ROOMS.values())
def test_every_hook_says_what_it_is_for(room: type[hooks.Declared]) -> None:
    source = inspect.getsource(hooks)
    for name in hooks.names(room):
        declared = inspect.getattr_static(room, name, None)
        assert inspect.getdoc(declared) if inspect.isfunction(declared) else f"    {name}: " in source
