"""A diagnosis on a terminal."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

GOOD, BAD, ABSENT = ("✓", "green"), ("✗", "bold red"), ("-", "dim")


def render(diagnosis: Mapping[str, Any], *, verbose: bool = True) -> RenderableType:
    """Show what ``diagnose`` found: machine, engines, packages, folders, and problems last, where they are read.

    Args:
        diagnosis: What ``diagnose`` returned.
        verbose: Show every extra; otherwise those that are installed.
    """
    parts: list[RenderableType] = []
    sections: dict[str, Callable[[Mapping[str, Any]], RenderableType]] = {
        "Machine": _machine,
        "Engines": _engines,
        "Packages": functools.partial(_packages, verbose=verbose),
        "Folders": _folders,
    }
    for name, section in sections.items():
        parts += [Text(name, style="bold"), Padding(section(diagnosis), (0, 0, 1, 2))]
    return Group(*parts, _problems(diagnosis))


def _machine(diagnosis: Mapping[str, Any]) -> RenderableType:
    machine = diagnosis["machine"]
    grid = _grid()
    python = diagnosis["python"]
    quota = f"{machine['cpu_quota']:g} CPU quota, " if machine.get("cpu_quota") else ""
    threads = f"{machine['physical_cores']} cores, {machine['logical_cpus']} threads"
    cores = f"{threads}, {quota}{machine['memory_gib']} GiB memory"
    gpu = f"{', '.join(machine['gpus'])}, driver {machine['gpu_driver']}" if machine["gpus"] else "none found"
    facts = {
        "toolchain": f"{diagnosis['toolchain']}, Python {python['version']} ({python['executable']})",
        "processor": f"{machine['cpu']}, {machine['system']}",
        "": cores,
        "instructions": " ".join(diagnosis["instruction_sets"]) or "not known",
        "int8": diagnosis["int8"],
        "bf16": "native" if diagnosis["bf16"] else "not native: computing in it gains nothing here",
        "GPU": gpu,
        "C++ compiler": diagnosis["compiler"] or "none found (torch.compile needs one)",
    }
    for label, text in facts.items():
        grid.add_row(Text(label, style="dim"), Text(text))
    return grid


def _engines(diagnosis: Mapping[str, Any]) -> RenderableType:
    grid = _grid()
    for engine in diagnosis["engines"]:
        name = engine["engine"] + (f" ({engine['provider']})" if engine["provider"] else "")
        can = [what for what, able in (("builds", engine["builds"]), ("runs", engine["runs"])) if able]
        answer = " and ".join(can) or "no"
        grid.add_row(_mark(GOOD if can else ABSENT), Text(name), Text(answer), Text(engine["reason"], style="dim"))
    return grid


def _packages(diagnosis: Mapping[str, Any], *, verbose: bool) -> RenderableType:
    grid = _grid()
    base = {"extra": "base", "packages": diagnosis["base"], "command": "pip install toolchain"}
    absent = [] if verbose else [extra["extra"] for extra in diagnosis["extras"] if not _wanted(extra)]
    for extra in (base, *(extra for extra in diagnosis["extras"] if extra["extra"] not in absent)):
        complete = all(package["ok"] for package in extra["packages"])
        packages = Text(", ").join(_package(package) for package in extra["packages"])
        if not complete:
            packages.append(f"\n{extra['command']}", style="cyan")
        grid.add_row(_mark(GOOD if complete else ABSENT), Text(extra["extra"]), packages)
    if absent:
        packages = Text(f"{', '.join(absent)}\n").append("toolchain doctor -v", style="cyan")
        grid.add_row(
            _mark(ABSENT), Text("not here"), packages.append(" says what each brings, and the command that adds it")
        )
    return grid


def _wanted(extra: Mapping[str, Any]) -> bool:
    """Return whether the first package of an extra, which the others are for, is installed."""
    return any(package["installed"] for package in extra["packages"][:1])


def _package(package: Mapping[str, Any]) -> Text:
    """A distribution with its version: dim when it is missing, yellow when it is another one than asked for."""
    # No line is broken between a name and its version.
    name = f"{package['name']}\N{NO-BREAK SPACE}"
    if package["ok"]:
        return Text(name + package["installed"])
    if package["installed"]:
        return Text(f"{name}{package['installed']} (wanted {package['wanted']})", style="yellow")
    return Text(
        f"{name}missing" + (f" ({package['stand_in']} is in its place)" if package["stand_in"] else ""), style="dim"
    )


def _folders(diagnosis: Mapping[str, Any]) -> RenderableType:
    grid = _grid()
    for folder in diagnosis["folders"]:
        state = "" if folder["exists"] else ", made when needed"
        free = f"{folder['free_bytes'] / 1e9:,.1f} GB free"
        room = f"{free}{state}" if folder["writable"] else "cannot be written"
        mark = GOOD if folder["writable"] else ABSENT if folder["use"] == "home" else BAD
        grid.add_row(_mark(mark), Text(folder["use"]), Text(folder["folder"], overflow="fold"), Text(room))
    return grid


def _problems(diagnosis: Mapping[str, Any]) -> RenderableType:
    if not diagnosis["problems"]:
        return Text("No problems found.", style="green")
    grid = _grid()
    for problem in diagnosis["problems"]:
        grid.add_row(_mark(BAD), Text.assemble(problem["problem"], "\n", (problem["fix"], "cyan")))
    return Group(Text("Problems", style="bold red"), Padding(grid, (0, 0, 0, 2)))


def _grid() -> Table:
    return Table.grid(padding=(0, 2))


def _mark(mark: tuple[str, str]) -> Text:
    return Text(*mark)
