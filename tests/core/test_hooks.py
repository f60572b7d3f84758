from __future__ import annotations

import ast
import inspect
import shutil
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests.command import toolchain
from toolchain.core import hooks, registry
from toolchain.core.errors import HookError


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
    source = "".join(inspect.getsource(sys.modules[each.__module__]) for each in room.__mro__[:-1])
    for name in hooks.names(room):
        declared = inspect.getattr_static(room, name, None)
        assert inspect.getdoc(declared) if inspect.isfunction(declared) else f"    {name}: " in source


#: All that a technique of optimize/ must define, and a helper of its own.
PASS = """
from pathlib import Path
from textwrap import dedent
VERSION = 1
TAKES, GIVES = ("standard",), "standard"
AGREEMENT: float = 1.0
Config = int
def apply(source, out, config, context): return {}
def _helper(): return Path(dedent(""))
"""


def load(folder: Path, text: str) -> ModuleType:
    """Load a module as ``registry.get`` does, and check what it defines."""
    module = ModuleType("toy")
    path = folder / "toy.py"
    path.write_text(text, "utf-8")
    module.__file__ = str(path)
    exec(compile(text, path, "exec"), vars(module))
    registry.check_hooks("toy", "optimize", module)
    return module


def test_a_technique_may_define_hooks_and_private_names_and_import_what_it_likes(tmp_path: Path) -> None:
    module = load(tmp_path, PASS)
    assert hooks.defined(module) == {"VERSION", "TAKES", "GIVES", "AGREEMENT", "Config", "apply"}


@pytest.mark.parametrize(
    ("misspelt", "meant"),
    [
        ("def fingerprnt(config): return {}", "fingerprint"),
        ("AGREEMNT = 0.9", "AGREEMENT"),
        ("AGREEMNT: float = 0.9", "AGREEMENT"),
        ("def Apply(source, out, config, context): return {}", "apply"),
        ("class config: pass", "Config"),
    ],
)
def test_a_misspelt_hook_is_refused_with_what_was_meant(misspelt: str, meant: str, tmp_path: Path) -> None:
    name = misspelt.replace("class ", "def ").removeprefix("def ").split("(")[0].split(":")[0].split(" ")[0]
    with pytest.raises(HookError, match=rf"optimize/toy: '{name}' is not a hook of a technique in optimize/") as caught:
        load(tmp_path, f"{PASS}\n{misspelt}\n")
    assert caught.value.hint.startswith(f"did you mean {meant!r}?")


def test_a_public_name_that_is_like_no_hook_is_refused_with_where_it_belongs(tmp_path: Path) -> None:
    with pytest.raises(HookError, match="'LARGEST' is not a hook") as caught:
        load(tmp_path, f"{PASS}\nLARGEST = 448.0\n")
    assert caught.value.hint == (
        "a name of the module's own begins with an underscore; what is shared stands in optimize/shared/"
    )
    with pytest.raises(HookError, match="'open_session' is not a hook"):  # it is one of engines/
        load(tmp_path, f"{PASS}\ndef open_session(folder, threads): return None\n")


@pytest.mark.parametrize("hook", ["VERSION", "TAKES, GIVES", "AGREEMENT: float", "Config", "def apply"])
def test_a_required_hook_that_is_missing_is_refused_by_name(hook: str, tmp_path: Path) -> None:
    text = "\n".join(line for line in PASS.splitlines() if not line.startswith(hook))
    name = hook.removeprefix("def ").split(",")[0].split(":")[0]
    with pytest.raises(HookError, match=f"optimize/toy: {name} is missing, which every technique in optimize/"):
        load(tmp_path, text)


def test_a_dialect_may_depend_on_the_settings(tmp_path: Path) -> None:
    text = PASS.replace('TAKES, GIVES = ("standard",), "standard"', 'TAKES = ("standard",)')
    with pytest.raises(HookError, match="toy: GIVES or gives is missing"):
        load(tmp_path, text)
    load(tmp_path, f"{text}\ndef gives(config, taken): return taken\n")


def test_a_hook_that_another_one_needs_is_required_with_it() -> None:
    module = ModuleType("toy")
    module.__dict__.update(VERSION=1, Config=int, apply=print)
    assert hooks.missing(hooks.Augmentation, module) == []
    module.__dict__["sources"] = print
    assert hooks.missing(hooks.Augmentation, module) == ["HEAD"]


def test_a_misspelt_hook_ends_a_command_with_one_sentence(tmp_path: Path) -> None:
    package = tmp_path / "toolchain"
    shutil.copytree(registry.PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__"))
    technique = package / "optimize/fp16.py"
    technique.write_text(technique.read_text("utf-8").replace("AGREEMENT =", "AGREEMNT ="), "utf-8")
    done = toolchain("list", "techniques", folder=tmp_path, path=tmp_path)
    assert done.returncode == 1
    error, hint = done.stderr.splitlines()
    assert error == "error: optimize/fp16: 'AGREEMNT' is not a hook of a technique in optimize/"
    assert hint.startswith("  hint: did you mean 'AGREEMENT'? a name of the module's own begins with an underscore")


ALL = [(folder, name) for folder in registry.FOLDERS for name in registry.names(folder)]


@pytest.mark.parametrize(("folder", "name"), ALL, ids=[f"{folder}/{name}" for folder, name in ALL])
def test_constants_are_those_of_the_syntax_tree(folder: str, name: str) -> None:
    module = registry.get(folder, name).module
    names = set[str]()
    for node in ast.parse(Path(str(module.__file__)).read_bytes()).body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", ast.Constant(0))]
        names |= {each.id for target in targets for each in ast.walk(target) if isinstance(each, ast.Name)}
        names |= {node.name} if isinstance(node, ast.FunctionDef | ast.ClassDef) else set()
    assert {each for each in names if not each.startswith("_")} == hooks.defined(module)
