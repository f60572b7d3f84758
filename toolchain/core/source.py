"""The source that decides a technique's result: its own, and that of every module of ours that it imports."""

from __future__ import annotations

import hashlib
import os
import re
from functools import cache
from pathlib import Path

#: Left out with all that it imports: it knows nothing of models.
GROUND = "toolchain.core"

# Imports of ours are absolute, and stand one a line or in parentheses: a test holds that a syntax tree says the same,
# which would take longer than all else that a run does which finds its steps in the store.
_IMPORT = re.compile(rb"import (toolchain[\w.]*)")
_FROM = re.compile(rb"from (toolchain[\w.]*) import (\([^)]*\)|[^\n(]*)")
_NAME = re.compile(r"(\w+)(?: as \w+)?")
_COMMENT = re.compile(r"#[^\n]*")


def digest(package: Path, name: str) -> str:
    """Return the SHA-256 of a module's source and of the modules that it imports, directly or not.

    Args:
        package: The folder of the package ``toolchain``.
        name: The module's dotted name; of a package, all of its modules count. One that has no file here has no source.
    """
    modules: set[str] = set()
    waiting = {each for each in _files(package) if each == name or each.startswith(f"{name}.")}
    while waiting:
        module = waiting.pop()
        modules.add(module)
        waiting |= _read(package, module)[1] - modules
    lines = (f"{module} {_read(package, module)[0]}\n" for module in sorted(modules))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def imports(content: bytes) -> set[str]:
    """Return the dotted names of ours that a module imports; of ``from a import b`` that is ``a.b``."""
    names = {module.decode() for module in _IMPORT.findall(content)}
    for module, listed in _FROM.findall(content):
        names |= {f"{module.decode()}.{each}" for each in _NAME.findall(_COMMENT.sub("", listed.decode()))}
    return names


@cache
def _files(package: Path) -> dict[str, Path]:
    """Files of the package, by the dotted names of their modules."""
    files = {}
    for folder, _, names in os.walk(package):
        parts = (package.name, *Path(folder).relative_to(package).parts)
        for name in names:
            if name.endswith(".py"):
                module = parts if name == "__init__.py" else (*parts, name.removesuffix(".py"))
                files[".".join(module)] = Path(folder, name)
    return files


@cache
def _read(package: Path, module: str) -> tuple[str, frozenset[str]]:
    """The digest of a module's file, and the modules that it imports. Once: what was imported changes no more."""
    files = _files(package)
    content = files[module].read_bytes()
    named = (name if name in files else name.rpartition(".")[0] for name in imports(content))
    above = frozenset(each for each in named if each in files and each != package.name and not each.startswith(GROUND))
    return hashlib.sha256(content).hexdigest(), above
