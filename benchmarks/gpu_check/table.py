"""The results of the GPU check as Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any


def page(results: Mapping[str, Any]) -> str:
    """The whole page."""
    return "\n".join([*_head(results), *_grids(results), *_pairs(results), *_lengths(results), *_answers(results),
                      *_builds(results), *_gaps(results)]) + "\n"  # fmt: skip


#: What the short page tells of, and how it calls it.
TOLD = {
    "ort fp32": "fp32", "ort tf32": "tf32", "ort fp16": "fp16", "ort fp16 lengths": "fp16, lengths",
    "ort fp16 graph": "fp16, CUDA graph", "torch fp32": "PyTorch fp32", "torch fp16": "PyTorch fp16",
}  # fmt: skip


def summary(results: Mapping[str, Any]) -> str:
    """A short page: milliseconds without copies, and real texts."""
    names = list(TOLD.values())
    rows = [
        [
            f"{model} {shape}",
            *(f"{at[name]['median_ms']:.2f}" if (at := found["device"]).get(name) else "–" for name in TOLD),
        ]
        for model, shapes in results.get("shapes", {}).items()
        for shape, found in shapes.items()
    ]
    where = results.get("environment", {}).get("GPU", "processor")
    lines = list(_rows(["batch × tokens", *names], rows))
    lines += [
        "",
        f"Milliseconds of a batch, without copies, medians on one {where}.",
    ]
    for model, found in results.get("real_lengths", {}).items():
        for engine, record in found["engines"].items():
            if engine in TOLD and record.get("ratio"):
                low, high = record["ratio"][1:]
                lines.append(
                    f"{model}, {TOLD[engine]}: {record['sorted']['texts_per_second']:,.0f} texts/s sorted by length, "
                    f"{record['ratio'][0]:.2f} × ({low:.2f} to {high:.2f}) those of padding to 128."
                )
    return "\n".join(lines) + "\n"


def _head(results: Mapping[str, Any]) -> Iterator[str]:
    yield "# GPU check\n"
    if results.get("rehearsal"):
        yield "**A rehearsal on a processor, at tiny sizes: no figure below says anything of a GPU.**\n"
    for key, value in results.get("environment", {}).items():
        yield f"- {key}: {value}"
    yield ""
    yield "Milliseconds of a batch, median (p10–p90) over the calls of interleaved rounds. Without copies: from the"
    yield "device's memory, with the logits left there. With copies: from host memory to host memory. `ort` is this"
    yield "toolchain's engine `onnxruntime` on the provider cuda; `own`: fusion is left to ONNX Runtime; `lengths`:"
    yield "attention reads lengths of rows; `graph`: CUDA graphs; `tf32`: fp32 products round to TF32."


def _grids(results: Mapping[str, Any]) -> Iterator[str]:
    """One table for each model and place of the data: contestants down, shapes across."""
    for model, shapes in results.get("shapes", {}).items():
        for copies, title in (("device", "without copies"), ("host", "with copies")):
            cells = {shape: found[copies] for shape, found in shapes.items() if found.get(copies)}
            names = list(dict.fromkeys(name for found in cells.values() for name in found))
            if names:
                yield f"\n## {model}, {title}\n"
                yield from _rows(
                    ["", *cells], [[name, *(_cell(c.get(name)) for c in cells.values())] for name in names]
                )


def _pairs(results: Mapping[str, Any]) -> Iterator[str]:
    if results.get("comparisons"):
        yield "\n## Ratios, round by round\n"
        yield from _rows(
            ["model", "shape", "what", "median", "least–largest round"],
            [
                [item["model"], item["shape"], item["what"], f"{item['ratio'][0]:.2f} ×",
                 f"{item['ratio'][1]:.2f}–{item['ratio'][2]:.2f}"]
                for item in results["comparisons"]
            ],
        )  # fmt: skip


def _lengths(results: Mapping[str, Any]) -> Iterator[str]:
    for model, found in results.get("real_lengths", {}).items():
        yield f"\n## {model}, real lengths: {found['texts']} texts, {found['mean_tokens']:.1f} tokens in the mean\n"
        yield "Texts per second with copies; × is time of pad-to-128 over time of sorted batches, median over rounds.\n"
        rows = []
        for engine, record in found["engines"].items():
            speeds = [f"{record[key]['texts_per_second']:,.0f}" if key in record else "–" for key in ORDERS]
            ratio = record.get("ratio")
            rows.append([engine, *speeds, f"{ratio[0]:.2f} × ({ratio[1]:.2f}–{ratio[2]:.2f})" if ratio else "–"])
        yield from _rows(["", *ORDERS, "sorted against pad to 128"], rows)


#: Ways to batch real texts.
ORDERS = ("pad to 128", "data order", "sorted")


def _answers(results: Mapping[str, Any]) -> Iterator[str]:
    for model, found in results.get("answers", {}).items():
        yield f"\n## {model}, answers on {found['texts']} real texts against PyTorch fp32\n"
        yield f"Logits lie {found['spread']:.3g} apart (standard deviation).\n"
        yield from _rows(
            ["", "largest logit difference", "labels that agree"],
            [
                [name, f"{one['max_difference']:.2g}", f"{one['agreement']:.2%}"]
                for name, one in found["engines"].items()
            ],
        )


def _builds(results: Mapping[str, Any]) -> Iterator[str]:
    for model, notes in results.get("builds", {}).items():
        if not notes:
            continue
        yield f"\n## {model}, what was built\n"
        rows = []
        for name, note in notes.items():
            fusion = ", ".join(f"{kind} {had} of {must}" for kind, (had, must) in note.get("fusion", {}).items())
            nodes = ", ".join(f"{count} on {where}" for where, count in note.get("placement", {}).items())
            rows.append(
                [
                    name,
                    fusion or note.get("error", note.get("file", "–")).replace("\n", " ").replace("|", "/")[:300],
                    nodes or "–",
                ]
            )
        yield from _rows(["", "fused", "nodes"], rows)


def _gaps(results: Mapping[str, Any]) -> Iterator[str]:
    for key, title in (("missing", "Missing here"), ("left_out", "Left out for want of time")):
        if results.get(key):
            yield f"\n## {title}\n"
            yield from (f"- {item}" for item in results[key])
    if results.get("failed"):
        yield "\n## Failed\n"
        for name, error in results["failed"].items():
            yield f"- {name}: `{error.splitlines()[0][:300] if error else ''}`"


def _cell(record: Mapping[str, Any] | None) -> str:
    if record is None:
        return "–"
    ratio = f", {record['ratio'][0]:.2f} ×" if "ratio" in record else ""
    return f"{record['median_ms']:.3f} ({record['p10_ms']:.3f}–{record['p90_ms']:.3f}){ratio}"


def _rows(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield "| " + " | ".join(head) + " |"
    yield "| --- |" + " ---: |" * (len(head) - 1)
    yield from ("| " + " | ".join(row) + " |" for row in rows)
