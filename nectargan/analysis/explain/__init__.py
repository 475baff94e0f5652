"""A diagnosis of a run in plain words: sentences that follow from its record.

Each sentence contains the figures that it rests on. What is not on record is not mentioned.
"""

from __future__ import annotations

from collections.abc import Iterable

from nectargan.analysis.explain.balance import balance
from nectargan.analysis.explain.finding import Finding, RunRecord
from nectargan.analysis.explain.pull import conflicts, moves, pull
from nectargan.analysis.explain.validation import validation
from nectargan.analysis.explain.values import changes, nonfinite, weights
from nectargan.analysis.frames import gradients_of, losses_of, metrics_of
from nectargan.analysis.run_changes import changes_of
from nectargan.analysis.sources import LedgerSource
from nectargan.record.output_directory import not_a_run
from nectargan.record.run_directory import GRADIENTS_FILE, LOSSES_FILE, RunDirectory

__all__ = ["Finding", "RunRecord", "explain", "explain_run", "explanation_lines"]


def explain_run(run: RunDirectory) -> list[Finding]:
    """What the record of a run directory says; that of a fork includes the rows of its parent.

    Raises:
        RunError: this is not a run directory, it has no record of losses, or it is damaged.
        ConfigError: its config cannot be read.
    """
    source = LedgerSource(run, lineage=True)
    if not source.has(LOSSES_FILE):
        raise not_a_run(run, run.losses.name)
    return explain(
        RunRecord(
            losses_of(source),
            metrics_of(source),
            gradients_of(source) if source.has(GRADIENTS_FILE) else None,
            source.config(),
            source.status()[0],
            changes_of(run),
        )
    )


def explanation_lines(findings: Iterable[Finding]) -> list[str]:
    """The sentences, one a line."""
    return [f"- {finding.text}" for finding in findings]


def explain(record: RunRecord) -> list[Finding]:
    """What the record of a run says about its losses, in the order of `Topic`."""
    if record.losses.empty:
        return []
    parts = (pull, moves, conflicts, balance, weights, validation, changes, nonfinite)
    return [finding for part in parts for finding in part(record)]
