"""Verdicts on what was measured: each says whether an engine came through a gate, with its evidence, as data.

The evidence is gathered where the work is done: parity after every pass and in the evaluation, fusion at the build,
placement, invariance and ISA in the evaluation, never-slower in the report. Gate 6, no imaginary sparsity, needs no
check: size is bytes on disk and speed is time, so zeros that no file format drops and no kernel skips earn neither.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from toolchain.certainty.statistics import Interval, wilson

#: How the evidence of a gate begins that was run on too few data.
CANNOT_SAY = "cannot say"


@dataclass(frozen=True)
class Verdict:
    """What a gate found.

    Attributes:
        gate: Which gate.
        passed: Whether the engine came through; None where the gate was not run, or the data cannot say.
        evidence: The numbers that decided it, as a sentence.
        reason: Why it was not judged; empty where it was.
        label: Whether a failure only labels the engine, though the gate is one of ``BINDING``.
    """

    gate: str
    passed: bool | None
    evidence: str
    reason: str = ""
    label: bool = False

    @property
    def failed(self) -> bool:
        """Whether it was judged and not passed."""
        return self.passed is False

    @property
    def open(self) -> bool:
        """Whether it was run, and the data cannot say."""
        return self.passed is None and self.evidence.startswith(CANNOT_SAY)


#: The gates in the order in which they are told. An engine that fails one of those that ``BINDING`` names is never
#: recommended; "never slower" labels, and keeps it from being recommended for speed; "isa" labels, and so does "fusion"
#: where complete fusion is not claimed.
GATES = ("parity", "fusion", "placement", "invariance", "never slower", "isa")
BINDING = ("parity", "fusion", "placement", "invariance")

#: Share of labels that may flip between batches, or between paddings.
MOST_FLIPS = 0.005

#: How many flipped sentences the evidence names.
NAMED = 5

#: What evidence calls answers where it does not say so itself: one, and several.
LABELS = ("label", "labels")

NO_EMULATOR = "neither a switch nor an emulator (qemu-x86_64 on PATH) turns VNNI off here"
NOT_EVALUATED = "the engine was not evaluated"


def of_engine(
    passes: Sequence[Mapping[str, Any]],
    counts: Mapping[str, Sequence[int]] | None,
    evaluation: Mapping[str, Any],
    provider: str,
    partly: str = "",
) -> list[Verdict]:
    """The verdicts that need no baseline.

    Args:
        passes: Parity of each graph pass of its chain, in order.
        counts: Fused operators found and expected, by kind; None where its build does not say.
        evaluation: What ``evaluation.json`` holds; empty where it was not evaluated.
        provider: Where every node must run; empty when the engine has no such choice.
        partly: Why an incomplete fusion only labels the engine; empty where it bars it.
    """
    if not evaluation:
        skipped = [_not_run(gate, NOT_EVALUATED) for gate in ("placement", "invariance", "isa")]
        return [parity(passes, None), fusion(counts, partly), *skipped]
    return [
        parity(passes, evaluation.get("parity")),
        fusion(counts, partly),
        placement(evaluation.get("placement") or {}, provider, evaluation.get("int8_products")),
        invariance(evaluation.get("invariance")),
        isa(evaluation.get("isa")),
    ]


def complete(verdicts: Iterable[Verdict], why_not_timed: str) -> tuple[Verdict, ...]:
    """A verdict for every gate, in their order, so that none that was not run is left out.

    Args:
        verdicts: Those that there are.
        why_not_timed: Why never-slower was not judged.
    """
    found = {verdict.gate: verdict for verdict in verdicts}
    return tuple(found.get(gate) or _not_run(gate, why_not_timed) for gate in GATES)


def _not_run(gate: str, reason: str, evidence: str = "") -> Verdict:
    return Verdict(gate, None, evidence or f"not run: {reason}", reason)


def parity(passes: Sequence[Mapping[str, Any]], engine: Mapping[str, Any] | None) -> Verdict:
    """Gate 1: every pass kept the labels of the graph that the variant began as, and the engine those of its own graph.

    Args:
        passes: What ``measure.parity.compare`` gave after each graph pass, in order, with ``pass`` and ``floor``; or
            ``evidence`` in place of its numbers.
        engine: What it gave for the engine against its graph; None where the engine was built from no graph.
    """
    told = [f"{found['pass']}: {compared(found)}" for found in passes]
    told += [f"engine: {compared(engine)}"] if engine else []
    every = [*passes, *([engine] if engine else [])]
    guilty = next((found for found in every if found["passed"] is False), None)
    if guilty is not None:
        introduced = guilty.get("introduced_by") or guilty.get("pass") or "the engine"
        node = f", first diverging node {guilty['first']}" if guilty.get("first") else ""
        return Verdict("parity", False, f"introduced by {introduced}{node}; {'; '.join(told)}")
    skipped = next((found for found in every if found["passed"] is None), None)
    if skipped is not None:
        return _not_run("parity", str(skipped["reason"]).splitlines()[0], "; ".join(told))
    if not every:
        return _not_run("parity", "no pass was applied, and there is no graph to compare an engine with")
    return Verdict("parity", True, "; ".join(told))


def compared(found: Mapping[str, Any]) -> str:
    """The numbers of one comparison of logits, as a sentence."""
    if "evidence" in found:
        return str(found["evidence"])
    if found["passed"] is None:
        return f"not run: {str(found['reason']).splitlines()[0]}"
    answers = tuple(found.get("answers", LABELS))
    numbers = f"{found['flips']} of {found['examples']} {answers[1]} differ"
    if found["ties"]:
        numbers += f" ({found['ties']} of them toss-ups)"
    if found["max_difference"] is not None:
        moved = "Δlogit" if answers == LABELS else "Δ"
        numbers += f", max |{moved}| {found['max_difference']:.2g}"
    return numbers + (f", {found['non_finite']} without numbers" if found["non_finite"] else "")


def fusion(counts: Mapping[str, Sequence[int]] | None, partly: str = "") -> Verdict:
    """Gate 2: the runtime's fused operators are as many as the architecture must have.

    Args:
        counts: For each kind of operator, how many were found and how many must be there; None where the engine does
            not report it.
        partly: Why an incomplete fusion only labels the engine; empty where it bars it.
    """
    if not counts:
        return _not_run("fusion", "the engine reports no counts")
    evidence = ", ".join(f"{kind} {found} of {expected}" for kind, (found, expected) in counts.items())
    if all(found >= expected for found, expected in counts.values()):
        return Verdict("fusion", True, evidence)
    return Verdict("fusion", False, f"{evidence}; {partly}" if partly else evidence, label=bool(partly))


def invariance(found: Mapping[str, Any] | None) -> Verdict:
    """Gate 4: at most 0.5 % of the labels depend on the batch, and as many on the padding.

    An engine fails when the whole 95 % interval (Wilson's) of the share of flips lies above that, toss-ups not counted.
    It passes when the share over the whole split is no more than that. Otherwise the split cannot say.

    Args:
        found: What ``measure.invariance.measure`` gave; None where it was switched off.
    """
    if not found:
        return _not_run("invariance", "evaluate: {invariance: off}")
    runs = {"batch 1 against {}".format(found["batch"]["sizes"][1]): found["batch"]}
    if found["padding"]:
        runs[f"padded to the batch against {found['padding']['pad_to']} tokens"] = found["padding"]
    one, several = found.get("answers", LABELS)
    told = [f"{name}: {_flips(run, one)}" for name, run in runs.items()]
    told += [] if found["padding"] else ["padding not run: the engine tokenizes, and pads, by itself"]
    evidence = f"{'; '.join(told)}; {_run_on(found)}"
    worst = max(run["flips"] - run["ties"] for run in runs.values())
    share = wilson(worst, found["of"])  # what was not run can only add flips
    if share.low > MOST_FLIPS:
        return Verdict("invariance", False, evidence)
    if found["safe"] and share.estimate <= MOST_FLIPS:
        return Verdict("invariance", True, evidence)
    interval = f"{100 * share.low:.2g} to {100 * share.high:.2g} %"
    reason = f"{worst} flips of {found['of']} are {interval} of the {several}, and {100 * MOST_FLIPS:g} % may flip"
    return Verdict("invariance", None, f"{CANNOT_SAY}: {reason}; {evidence}", f"{CANNOT_SAY}: {reason}")


def _run_on(found: Mapping[str, Any]) -> str:
    """Return which sentences were run, and why no others."""
    if found["least_left"] is None:
        return f"on all {found['of']} test sentences"
    where = f"on {found['examples']} of {found['of']} test sentences, the least certain among them"
    if not found["safe"]:
        return where
    return f"{where}; the rest are decided by {found['least_left']:.2g} or more, and no lead changed by more than " + (
        f"{found['change']:.2g}"
    )


def isa(found: Mapping[str, Any] | None) -> Verdict:
    """The labels of an int8 engine do not hang on VNNI, AVX-512 or AMX.

    Args:
        found: What ``measure.isa.measure`` gave; None where it was switched off.
    """
    if not found:
        return _not_run("isa", "evaluate: {isa: off}")
    on = f"measured on {', '.join(found['measured_on']) or 'a processor without x86 instructions'}"
    if not found["int8"]:
        return _not_run("isa", "no int8 products", f"{on}; no int8 products")
    counted = found.get("saturation")
    if counted and not counted["risky"]:
        return Verdict("isa", True, f"{on}; no pair of its {counted['pairs']} weight pairs can overflow 16 bits")
    if not found["measured_on"]:
        return _not_run("isa", "a processor without x86 instructions", on)
    if not found["wide"]:
        return Verdict("isa", True, f"{on}, without VNNI: every figure holds there")
    risk = ""
    if counted:
        share = counted["saturated"] / counted["results"]
        risk = f"; without VNNI {share:.2%} of its int8 results hold a product that overflows 16 bits"
        risk += f", most in {counted['worst']}" if counted["worst"] else ""
    remedy = "; reduce_range: true in the quantizer avoids it"
    run = found.get("run")
    if run and run["passed"] is not None:
        told = f"{on}; again under {found['switch']}: {compared(run)}{risk}"
        return Verdict("isa", run["passed"], told + ("" if run["passed"] else remedy))
    if counted and not counted["saturated"]:
        return Verdict("isa", True, f"{on}{risk}")
    why = str(run["reason"]).splitlines()[0] if run else NO_EMULATOR
    return _not_run("isa", why, f"{on}; not run without VNNI: {why}{risk}{remedy if counted else ''}")


def _flips(run: Mapping[str, Any], answer: str) -> str:
    named = ", ".join(map(str, run["indices"][:NAMED])) + (", …" if len(run["indices"]) > NAMED else "")
    ties = f", {run['ties']} of them toss-ups" if run["ties"] else ""
    return f"{answer} flips {run['flips']}" + (f" (sentences {named}{ties})" if named else "")


def binding(verdicts: Iterable[Verdict]) -> list[Verdict]:
    """Those failures for which an engine must not be recommended."""
    return [verdict for verdict in verdicts if verdict.failed and verdict.gate in BINDING and not verdict.label]


def never_slower(speedups: Mapping[str, Interval]) -> Verdict:
    """Gate 5: a compressed engine must be measurably faster than its own baseline somewhere, or it is "size only".

    Measurably faster means that the whole 95 % interval of the time ratio lies above 1. An engine that is faster at one
    setting and not at another passes, and the evidence names both; whoever recommends for a setting asks
    :func:`measurably_faster` for that one.

    Args:
        speedups: Time of the baseline over time of the engine, per timed setting.
    """
    named = [
        f"{setting}: {ratio.estimate:.2f}x [{ratio.low:.2f}, {ratio.high:.2f}]" for setting, ratio in speedups.items()
    ]
    return Verdict(
        "never slower", any(map(measurably_faster, speedups.values())), "; ".join(named) or "nothing was timed"
    )


def measurably_faster(speedup: Interval) -> bool:
    """Whether the whole interval of a time ratio lies above 1."""
    return speedup.low > 1


def placement(counts: Mapping[str, int], expected: str, int8_products: Sequence[int | None] | None = None) -> Verdict:
    """Gate 3: every node of the graph ran where it was asked to, and every int8 product in integers.

    Args:
        counts: Nodes per provider or device, as the session reported them.
        expected: The provider that was asked for; empty where the engine has one place only.
        int8_products: Products of the graph's int8 weights: how many were computed in integers (None where the engine
            does not say), and of how many; None where the graph has none.
    """
    nodes = ", ".join(f"{count} on {name}" for name, count in sorted(counts.items())) or "no nodes reported"
    told = f"{expected} was asked for; nodes: {nodes}" if expected else f"nodes: {nodes}"
    integers, products = int8_products or (0, 0)
    products = products or 0
    if products and integers is not None:
        told += f"; int8 products in integers: {integers} of {products}"
        told += f", {products - integers} in float" if integers < products else ""
    if not expected and not counts and not products:
        return _not_run("placement", "the engine reports no nodes")
    elsewhere = {name for name, count in counts.items() if name != expected and count}
    placed = bool(counts.get(expected)) and not elsewhere if expected else len(elsewhere) <= 1
    if placed and integers is None and products:
        return _not_run("placement", "the engine does not say which int8 products ran in float", told)
    return Verdict("placement", placed and (integers or 0) >= products, told)
