"""The command on built plans: refit gives one the weights of a graph that was trained anew."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from toolchain.cli import options, stages
from toolchain.core import delivery

if TYPE_CHECKING:
    from toolchain.core.store import Store


@click.command("refit")
@click.argument("engine", type=click.Path(path_type=Path))
@click.argument("graph", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Copy the new engine here.")
@options.store_option
@options.json_option
@options.verbosity
def refit_command(engine: Path, graph: Path, output: Path | None, store: Store, as_json: bool) -> int:
    """Give a TensorRT plan the weights of a newly trained graph, without building it again.

    ENGINE is the folder of a plan that was built with refit: true, GRAPH a folder with model.onnx, tokenizer and
    interface: the same graph, exported by the same settings, of which nothing but the weights differs. It runs on the
    GPU that the plan is for. The plan that was given stays as it is.
    """
    from toolchain.pipeline.refit import refit

    if output:
        delivery.check_target(output)
    artifact, is_new = refit(engine, graph, store)
    row = stages.delivered(artifact, str(artifact.manifest["label"]), is_new, output)
    if as_json:
        options.echo_json(row)
    else:
        options.echo(f"{artifact.kind} {artifact.key[:12]}  {row['path']}")
    return 0
