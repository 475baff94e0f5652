"""``nectargan explain``: a diagnosis of a run in plain words."""

from __future__ import annotations

import json

import click

from nectargan.cli.common import Command
from nectargan.cli.paths import RUN
from nectargan.output import say


@click.command(
    cls=Command,
    examples=("nectargan explain runs/first_v1", "nectargan explain runs/first_v1 --json"),
)
@click.argument("run", type=RUN)
@click.option(
    "--json", "as_json", is_flag=True, help="Print JSON: the sentences and their figures."
)
def explain(run: str, as_json: bool) -> None:
    """Say in plain words what the record of RUN shows, each sentence with its figures.

    Which loss had which share of the pull, which pairs pulled against each other, when the
    discriminator won, whether a weight was at its bound, and whether validation was still improving
    at the end. Without gradients.csv, only what losses and metrics show.
    """
    from nectargan.analysis.explain import explain_run, explanation_lines
    from nectargan.analysis.sources import one_run

    directory = one_run(run)
    findings = explain_run(directory)
    if as_json:
        content = {"run": str(directory), "findings": [each._asdict() for each in findings]}
        say(json.dumps(content, indent=4, ensure_ascii=False))
        return
    for line in explanation_lines(findings) or [f"'{directory}' has no losses on record yet."]:
        say(line)
