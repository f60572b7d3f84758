"""Why an engine is what it is and stands where it stands: passes, settings, rank, and every gate with its evidence."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolchain.core import documents, registry
from toolchain.core.errors import StoreError
from toolchain.core.files import check_file
from toolchain.core.hooks import Engine
from toolchain.core.store import Artifact, Store
from toolchain.deliver import training
from toolchain.deliver.ranking import engine_settings
from toolchain.deliver.report import kept
from toolchain.deliver.report.figures import ASKED, state
from toolchain.deliver.report.tables import verdict_json
from toolchain.measure import evaluate, gates
from toolchain.measure.gates import Verdict

if TYPE_CHECKING:
    from rich.table import Table

REPORT_FILE = "report.json"

#: How a verdict is coloured.
STYLES = {True: "green", False: "bold red", None: "dim"}

NO_RECIPE = "it is judged against a recipe's baseline: toolchain explain RECIPE"
NOT_BUILT = "this graph is not built: toolchain explain ENGINE, or RECIPE"


@dataclass(frozen=True)
class Explained:
    """One engine, or one graph that is not built yet.

    Attributes:
        name: What a person calls it.
        chain: Techniques applied, in order.
        settings: What its runtime is opened with, tuned settings and its precision among them.
        standing: Why it is ranked and recommended as it is, or not; empty outside of a report.
        verdicts: Every gate's, in their order.
    """

    name: str
    chain: tuple[str, ...]
    settings: Mapping[str, Any]
    standing: tuple[str, ...]
    verdicts: tuple[Verdict, ...]


def read_report(path: Path) -> dict[str, Any]:
    """Reads a report that a run wrote.

    Args:
        path: ``report.json``, or the folder that holds it.

    Raises:
        StoreError: It cannot be read, or another version wrote it.
    """
    report = kept.read(path)
    if any("gates" not in line or "techniques" not in line for line in report["lines"]):
        raise StoreError(
            f"{path} has no verdicts of gates: an older version wrote it",
            "write it again: toolchain report RECIPE -o FOLDER",
        )
    return report


def of_report(report: Mapping[str, Any]) -> list[Explained]:
    """Explains the engines of a report.

    Args:
        report: The report as JSON values, as ``report.json`` has it.
    """
    return [
        Explained(
            line["name"],
            tuple(line["techniques"]),
            line.get("settings", {}),
            tuple(line.get("standing", ())),
            tuple(
                Verdict(
                    each["gate"], each["passed"], each["evidence"], each.get("reason", ""), each.get("label", False)
                )
                for each in line["gates"]
            ),
        )
        for line in report["lines"]
    ]


def of_artifact(artifact: Artifact, store: Store) -> list[Explained]:
    """Explains an engine, the engines of an evaluation or a timing, or a graph; nothing of a checkpoint.

    Args:
        artifact: The artifact.
        store: Where its ancestors and its evaluation lie.
    """
    if artifact.kind in ("evaluation", "timing"):
        parents = (store.find("engine", key) for key in artifact.manifest["parents"])
        return [_engine(parent, store) for parent in parents if parent]
    if artifact.kind == "engine":
        return [_engine(artifact, store)]
    if artifact.kind == "onnx":
        verdicts = [Verdict(gate, None, f"not run: {NOT_BUILT}", NOT_BUILT) for gate in gates.GATES[1:]]
        complete = gates.complete([gates.parity(_passes(artifact, store), None), *verdicts], NOT_BUILT)
        return [Explained(str(artifact.manifest["label"]), _chain(artifact, store), {}, (), complete)]
    return []


def to_json(explained: Sequence[Explained]) -> list[dict[str, Any]]:
    """The same as plain JSON values."""
    return [
        {
            "name": item.name,
            "chain": list(item.chain),
            "settings": dict(item.settings),
            "standing": list(item.standing),
            "gates": [verdict_json(verdict) for verdict in item.verdicts],
        }
        for item in explained
    ]


def nothing_sound(explained: Sequence[Explained]) -> bool:
    """Return whether there are engines and each failed a gate that bars it from being shipped."""
    return bool(explained) and all(gates.binding(item.verdicts) for item in explained)


def render(explained: Sequence[Explained]) -> Iterator[Any]:
    """What the terminal shows."""
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    for item in explained:
        yield Text(item.name, style="bold")
        for reason in item.standing:
            yield Padding(Text(reason), (0, 0, 0, 2))
        yield Padding(Text(f"made by {' → '.join(item.chain)}", style="dim"), (0, 0, 0, 2))
        if item.settings:
            yield Padding(Text(f"runs with {_listed(item.settings)}", style="dim"), (0, 0, 0, 2))
        table: Table = Table(box=None, show_header=False, pad_edge=True, padding=(0, 1))
        for verdict in item.verdicts:
            word = Text(state(verdict), style=STYLES[verdict.passed], no_wrap=True)
            table.add_row(Text(verdict.gate, no_wrap=True), word, Text(verdict.evidence.replace("; ", "\n")))
        yield table
        yield ""
    if explained:
        yield Text("What the gates ask", style="bold")
        table = Table(box=None, show_header=False, pad_edge=True, padding=(0, 1))
        for gate, asked in ASKED.items():
            table.add_row(Text(gate, no_wrap=True), Text(asked, style="dim"))
        yield table


def _listed(settings: Mapping[str, Any]) -> str:
    """Settings as text; what lies in a group is named after it."""
    pairs = []
    for name, value in settings.items():
        inner = value.items() if isinstance(value, Mapping) else ()
        pairs += [f"{name}.{key} {item}" for key, item in inner] if inner else [f"{name} {value}"]
    return ", ".join(pairs)


def _engine(artifact: Artifact, store: Store) -> Explained:
    store.check(artifact)
    built = _engine_file(artifact)
    evaluated = _evaluation(artifact, store)
    evaluation = evaluate.read(evaluated.path) if evaluated else {}
    options = built.get("options", {})
    name = str(built.get("engine", ""))
    providers = registry.get("engines", name).of(Engine).PROVIDERS if name in registry.names("engines") else {}
    provider = providers.get(str(options.get("provider", "")), str(options.get("device", "")))
    passes, partly = _passes(artifact, store), built.get("partly_fused", "")
    if evaluated:
        task = evaluated.manifest["parts"].get("task")
        passes += training.failed_parity(_ancestors(artifact, store)[:-1], task, evaluation)
    verdicts = gates.of_engine(passes, built.get("fusion"), evaluation, provider, partly)
    label, chain = str(artifact.manifest["label"]), _chain(artifact, store)
    return Explained(label, chain, engine_settings(built), (), gates.complete(verdicts, NO_RECIPE))


def _engine_file(artifact: Artifact) -> dict[str, Any]:
    path = check_file(artifact.path, "engine.json", StoreError)
    return documents.read_object(path, StoreError, "build the engine again")


def _evaluation(engine: Artifact, store: Store) -> Artifact | None:
    """Return the last evaluation of an engine; None where nothing was measured."""
    damaged: list[str] = []
    evaluations = [
        artifact
        for artifact in store.artifacts(damaged)
        if artifact.kind == "evaluation" and engine.key in artifact.manifest["parents"]
    ]
    if not evaluations:
        return None
    last = max(evaluations, key=lambda each: str(each.manifest["started"]))
    store.check(last)
    return last


def lineage(artifact: Artifact, store: Store) -> tuple[list[Artifact], list[str]]:
    """What an artifact was made from, itself first, and keys of what the store does not have of it."""
    ancestors, absent = [artifact], list[str]()
    for current in ancestors:
        for parent in current.manifest["parents"]:
            if parent in {known.key for known in ancestors} or parent in absent:
                continue
            try:
                ancestors.append(store.resolve(parent))
            except StoreError:
                absent.append(parent)
    return ancestors, absent


def _ancestors(artifact: Artifact, store: Store) -> list[Artifact]:
    """The artifact and what it was made from, the earliest first."""
    ancestors: list[Artifact] = []
    pending: Artifact | None = artifact
    while pending is not None:
        ancestors.append(pending)
        keys = pending.manifest["parents"][:1]
        pending = next((a for key in keys for kind in ("onnx", "checkpoint") if (a := store.find(kind, key))), None)
    return ancestors[::-1]


def _chain(artifact: Artifact, store: Store) -> tuple[str, ...]:
    """Techniques applied, in order; the engine is none."""
    earlier = (each for each in _ancestors(artifact, store) if each.kind != "engine")
    return tuple(str(each.manifest["parts"]["technique"]) for each in earlier)


def _passes(artifact: Artifact, store: Store) -> list[Mapping[str, Any]]:
    return [each.metrics["parity"] for each in _ancestors(artifact, store) if "parity" in each.metrics]
