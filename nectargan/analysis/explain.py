"""A diagnosis of a run in plain words: sentences that follow from its record.

Each sentence contains the figures that it rests on. What is not on record is not mentioned.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from nectargan.analysis.frames import gradients_of, losses_of, metrics_of
from nectargan.analysis.sources import LedgerSource
from nectargan.metrics import USUAL_SERIES, is_lower_better
from nectargan.record.lineage import ledgers_of
from nectargan.record.output_directory import not_a_run
from nectargan.record.run_directory import GRADIENTS_FILE, RunDirectory
from nectargan.wording import counted

if TYPE_CHECKING:
    import pandas as pd

    from nectargan.config.schema import Config

Topic = Literal["pull", "conflict", "balance", "weight", "validation", "record"]

# A share that moves by less than this is not mentioned; between epochs it varies by a few points.
MOVED = 0.05
# Two losses pull against each other below this cosine, which is an angle of 96 degrees. Gradients
# at images have so many elements that the cosine of unrelated ones is within a hundredth of 0.
AGAINST = -0.1
# A discriminator that guesses is right half of the time. One that is right 19 times in 20 has wrong
# only what looks real by chance, and no longer says which change would look more real.
D_WINS = 0.95
# With no accuracy on record, its loss as a part of that of a discriminator that guesses.
D_WINS_LOSS = 0.1
GUESSING = {"vanilla": 2 * math.log(2), "lsgan": 0.5, "hinge": 2.0}
# It must last for this part of the steps on record: single windows go up and down.
LASTING = 0.1
# The steps of a window over which losses of D are averaged; one batch says little.
WINDOW = 50
# Fewer values of validation show no trend.
FEWEST_VALUES = 4

ACCURACY = "discriminator/accuracy"
PAIR = "gradient/cosine/"
_LOSSES_OF_D = ("D_real", "D_fake")


class RunRecord(NamedTuple):
    """What is on record of one run.

    Attributes:
        losses: As from `load_losses`, of one run.
        metrics: As from `load_metrics`, of one run.
        gradients: As from `load_gradients`, of one run; ``None`` or empty if there are none.
        config: The config, if there is one.
        status: The status of the run; empty if it is not known.
    """

    losses: pd.DataFrame
    metrics: pd.DataFrame
    gradients: pd.DataFrame | None = None
    config: Config | None = None
    status: str = ""


class Finding(NamedTuple):
    """A sentence about a run.

    Attributes:
        topic: What it is about.
        text: The sentence.
        figures: The figures that it rests on, by name; never empty.
    """

    topic: Topic
    text: str
    figures: dict[str, Any]


def explain_run(run: RunDirectory) -> list[Finding]:
    """What the record of a run directory says; that of a fork includes the rows of its parent.

    Raises:
        RunError: this is not a run directory, it has no record of losses, or it is damaged.
        ConfigError: its config cannot be read.
    """
    if not run.losses.exists():
        raise not_a_run(run, run.losses.name)
    source = LedgerSource(run, lineage=True)
    return explain(
        RunRecord(
            losses_of(source),
            metrics_of(source),
            gradients_of(source) if ledgers_of(run, GRADIENTS_FILE)[-1].exists() else None,
            source.config(),
            source.status()[0],
        )
    )


def explanation_lines(findings: Iterable[Finding]) -> list[str]:
    """The sentences, one a line."""
    return [f"- {finding.text}" for finding in findings]


def explain(record: RunRecord) -> list[Finding]:
    """What the record of a run says about its losses, in the order of `Topic`."""
    if record.losses.empty:
        return []
    parts = (_pull, _moves, _conflicts, _balance, _weights, _validation, _nonfinite)
    return [finding for part in parts for finding in part(record)]


# --- pull ----------------------------------------------------------------------------------------


def _pull(record: RunRecord) -> Iterator[Finding]:
    """The share of each loss in the last epoch, by its gradient and by its value."""
    gradients, losses = record.gradients, record.losses
    if gradients is None or gradients.empty:
        yield from _values(losses)
        return
    epoch = int(gradients["epoch"].max())
    last = gradients[gradients["epoch"] == epoch].dropna(subset=["share"])
    shares = _means(last, "share")
    if not shares:
        return
    values = _parts(losses[losses["epoch"] == epoch], shares)
    steps = int(last["step"].nunique())
    text = f"In epoch {epoch} the pull on the generated images was {_percentages(shares)} "
    text += f"(mean share of the gradient in {counted(steps, 'step')})"
    text += f"; by value the losses were {_percentages(values)}." if values else "."
    figures = {"epoch": epoch, "steps": steps, "share": shares}
    yield Finding("pull", text, figures | ({"value": values} if values else {}))


def _values(losses: pd.DataFrame) -> Iterator[Finding]:
    """What can be said of a run without gradients."""
    epoch = int(losses["epoch"].max())
    last = losses[losses["epoch"] == epoch]
    values = _parts(last, [name for name in _names(last) if not name.startswith("D_")])
    if values:
        text = f"By value, the losses of the generator were {_percentages(values)} in epoch {epoch}"
        text += "; how strongly each of them pulled is not on record (no gradients)."
        yield Finding("pull", text, {"epoch": epoch, "value": values})


def _moves(record: RunRecord) -> Iterator[Finding]:
    """Losses whose share is not what it was in the first epoch."""
    gradients = record.gradients
    if gradients is None or gradients.empty:
        return
    known = gradients.dropna(subset=["share"])
    for name in _names(known):
        means = known[known["loss"] == name].groupby("epoch")["share"].mean()
        first, last = float(means.iloc[0]), float(means.iloc[-1])
        if abs(last - first) >= MOVED:
            begin, end = int(means.index[0]), int(means.index[-1])
            text = f"The share of {name} {'rose' if last > first else 'fell'} from "
            text += f"{_percent(first)} in epoch {begin} to {_percent(last)} in epoch {end}."
            yield Finding(
                "pull", text, {"loss": name, "epochs": [begin, end], "share": [first, last]}
            )


def _parts(losses: pd.DataFrame, names: Sequence[str] | Mapping[str, float]) -> dict[str, float]:
    """The part of each loss in the sum of their magnitudes, by their mean weighted values."""
    finite = losses[np.isfinite(losses["weighted"].to_numpy(float))]
    sizes = {n: abs(v) for n, v in _means(finite, "weighted").items() if n in names}
    total = sum(sizes.values())
    return {name: size / total for name, size in sizes.items()} if total else {}


# --- conflicts -----------------------------------------------------------------------------------


def _conflicts(record: RunRecord) -> Iterator[Finding]:
    """Pairs that pulled against each other, and when; else the pair that came nearest to it."""
    names = set(_names(record.losses))
    metrics = record.metrics.dropna(subset=["value"])
    lowest: tuple[float, int, str] | None = None
    found = False
    for series in _names(metrics, "metric"):
        one, _, other = series.removeprefix(PAIR).partition(" vs ")
        if not series.startswith(PAIR) or not {one, other} <= names:
            continue
        points = metrics[metrics["metric"] == series]
        epochs, cosines = points["epoch"].to_numpy(), points["value"].to_numpy(float)
        least = int(cosines.argmin())
        worst, at, pair = float(cosines[least]), int(epochs[least]), f"{one} and {other}"
        lowest = min(lowest or (worst, at, pair), (worst, at, pair))
        against = epochs[cosines < AGAINST]
        if not len(against):
            continue
        found = True
        mean = float(cosines[cosines < AGAINST].mean())
        text = f"{pair} pulled against each other in {len(against)} of "
        text += (
            f"{counted(len(epochs), 'epoch')}, {_ranges(against)}: the cosine was {mean:.2f} on "
        )
        text += f"average there, and lowest in epoch {at}, {worst:.2f}."
        yield Finding(
            "conflict",
            text,
            {
                "losses": [one, other],
                "epochs": [int(epoch) for epoch in against],
                "cosine": mean,
                "lowest": worst,
                "lowest_epoch": at,
            },
        )
    if lowest is not None and not found:
        worst, at, pair = lowest
        text = (
            f"No pair of losses pulled against each other: the lowest cosine was {worst:.2f}, of "
        )
        text += f"{pair} in epoch {at}."
        yield Finding(
            "conflict", text, {"losses": pair.split(" and "), "lowest": worst, "lowest_epoch": at}
        )


# --- balance of generator and discriminator ------------------------------------------------------


def _balance(record: RunRecord) -> Iterator[Finding]:
    """When the discriminator won, if it did."""
    first = int(record.losses["step"].min())
    points = record.metrics[record.metrics["metric"] == ACCURACY].dropna(subset=["value"])
    if not points.empty:
        steps, values = points["step"].to_numpy(), points["value"].to_numpy(float)
        won, what = values >= D_WINS, f"its accuracy was at least {_percent(D_WINS)}"
        yield _d_won(first, steps, values, won, what, "accuracy") or _d_did_not_win(steps, values)
        return
    mode = record.config.train.gan_mode if record.config else None
    losses = record.losses
    mine = losses[losses["loss"].isin(_LOSSES_OF_D)].dropna(subset=["raw"])
    if mode is None or not set(_LOSSES_OF_D) <= set(_names(mine)):
        return
    totals = mine.groupby("step")["raw"].sum()
    windows = totals.groupby((totals.index - totals.index[0]) // WINDOW)
    values = windows.mean().to_numpy(float)
    steps = np.array([int(window.index[-1]) for _, window in windows])
    limit = D_WINS_LOSS * GUESSING[mode]
    what = f"its loss D_real + D_fake was at most {limit:.3g}, a tenth of that of guessing"
    finding = _d_won(first, steps, values, values <= limit, what, "loss")
    if finding:
        yield finding


def _d_won(first: int, steps: Any, values: Any, won: Any, what: str, kind: str) -> Finding | None:
    """The first stretch of windows in which D won, if it lasted.

    Args:
        first: The first step of the first window.
        steps: The last step of each window.
        values: The mean of each window.
        won: Whether D won in it.
        what: What that means, for the sentence.
        kind: Name of the values, "accuracy" or "loss".
    """
    begins = np.concatenate([[first], steps[:-1] + 1])
    long = LASTING * (steps[-1] - first + 1)
    changes = np.flatnonzero(np.diff(np.concatenate([[0], won.astype(int), [0]])))
    for start, end in zip(changes[::2], changes[1::2], strict=True):
        begin, last = int(begins[start]), int(steps[end - 1])
        if last - begin + 1 >= long:
            mean = float(values[start:end].mean())
            until = "the end" if end == len(steps) else f"step {last}"
            shown = _percent(mean) if kind == "accuracy" else f"{mean:.3g}"
            text = f"D won at step {begin}: {what} from there to {until} (mean {shown})."
            return Finding("balance", text, {"step": begin, "last_step": last, kind: mean})
    return None


def _d_did_not_win(steps: Any, values: Any) -> Finding:
    mean, most = float(values.mean()), int(values.argmax())
    text = f"D did not win: its accuracy was {_percent(mean)} on average and at most "
    text += f"{_percent(float(values[most]))} (step {int(steps[most])})."
    return Finding(
        "balance", text, {"accuracy": mean, "most": float(values[most]), "step": int(steps[most])}
    )


# --- validation ----------------------------------------------------------------------------------


def _validation(record: RunRecord) -> Iterator[Finding]:
    """Whether the metric that runs are judged by was still improving at the end."""
    config, metrics = record.config, record.metrics
    known = [name for name in _names(metrics, "metric") if name.startswith("val/")]
    judged = config.judged_by if config else USUAL_SERIES
    series = judged if judged in known else next(iter(known), None)
    if series is None:
        return
    points = metrics[metrics["metric"] == series]
    points = points[np.isfinite(points["value"].to_numpy(float))]
    if points.empty:
        return
    epochs, values = points["epoch"].to_numpy(), points["value"].to_numpy(float)
    own_lower = config.validation.own_lower_is_better if config else ()
    sign = -1 if is_lower_better(series, own_lower) else 1
    best = int((sign * values).argmax())
    figures: dict[str, Any] = {
        "metric": series,
        "best": float(values[best]),
        "best_epoch": int(epochs[best]),
        "last": float(values[-1]),
        "last_epoch": int(epochs[-1]),
    }
    at_best = f"{values[best]:.4g} in epoch {epochs[best]}"
    if len(values) < FEWEST_VALUES:
        text = (
            f"{series} was best, {at_best}, of {counted(len(values), 'epoch')} on record: too few "
        )
        yield Finding("validation", f"{text}for a trend.", figures)
        return
    quarter = max(1, len(values) // 4)
    late, before = values[-quarter:].mean(), values[-2 * quarter : -quarter].mean()
    late_best = best >= len(values) - max(1, len(values) // 10)
    if late_best and sign * late > sign * before:
        figures |= {"last_quarter": float(late), "quarter_before": float(before)}
        text = f"{series} was still improving when {_end(record, epochs[-1])}: it was best, "
        text += f"{at_best}, and its mean over the last {counted(quarter, 'epoch')} was {late:.4g} "
        text += f"after {before:.4g} over the {quarter} before{_rate(record, figures)}."
    else:
        text = f"{series} was best, {at_best}, and {values[-1]:.4g} in epoch {epochs[-1]}, when "
        text += f"{_end(record, epochs[-1])}: it was no longer improving."
    yield Finding("validation", text, figures)


def _end(record: RunRecord, epoch: int) -> str:
    whole = record.config is not None and epoch >= record.config.train.epochs
    if whole:
        return "the schedule ended"
    return "the run ended" if record.status not in ("", "RUNNING") else "this was read"


def _rate(record: RunRecord, figures: dict[str, Any]) -> str:
    """The learning rate at the end, which may be why little more was to come."""
    rates = record.metrics[record.metrics["metric"] == "lr/generator"]["value"]
    if rates.empty:
        return ""
    figures["learning_rate"] = float(rates.iloc[-1])
    return f", with a learning rate of {rates.iloc[-1]:.3g}"


# --- weights, and what is not a number -----------------------------------------------------------


def _weights(record: RunRecord) -> Iterator[Finding]:
    """Weights that follow from a share of the gradient, and their bounds."""
    from nectargan.config.loss_options import ShareConfig, weight_of

    options = record.config.train.loss if record.config else {}
    for name, option in options.items():
        share = weight_of(option)
        rows = record.losses[record.losses["loss"] == name].dropna(subset=["weight"])
        if isinstance(share, ShareConfig) and not rows.empty:
            yield _bounds(name, rows, share.min, share.max)


def _bounds(name: str, rows: pd.DataFrame, least: float, most: float) -> Finding:
    weights, steps = rows["weight"].to_numpy(float), rows["step"].to_numpy()
    figures: dict[str, Any] = {"loss": name, "steps": len(weights), "bounds": [least, most]}
    # Weights are recorded as float32. A weight of 0 is that of a share of 0, and not held there.
    at_most = np.isclose(weights, most, rtol=1e-6, atol=0)
    at_least = np.isclose(weights, least, rtol=1e-6, atol=0) & (least > 0)
    told = []
    for bound, where, kind in ((most, at_most, "highest"), (least, at_least, "lowest")):
        if where.any():
            first, count = int(steps[where][0]), int(where.sum())
            figures[kind] = {"count": count, "first_step": first}
            told.append(f"at its {kind} value, {bound:g}, in {count} of {len(weights)} steps, ")
            told[-1] += f"first at step {first}"
    if told:
        text = f"The weight of {name} was {'; and '.join(told)}: its share was not held there."
    else:
        low, high = float(weights.min()), float(weights.max())
        figures["weights"] = [low, high]
        text = (
            f"The weight of {name} was never at a bound: it was {low:.3g} to {high:.3g}, and may "
        )
        text += f"be {least:g} to {most:g}."
    return Finding("weight", text, figures)


def _nonfinite(record: RunRecord) -> Iterator[Finding]:
    """The first value of a loss that is NaN or infinite."""
    losses = record.losses
    bad = losses[~np.isfinite(losses["raw"].to_numpy(float))]
    if not bad.empty:
        row = bad.iloc[0]
        name, step, count = str(row["loss"]), int(row["step"]), len(bad)
        text = f"{name} was {row['raw']} at step {step}, the first of "
        text += f"{counted(count, 'value')} that {'is' if count == 1 else 'are'} not finite."
        yield Finding("record", text, {"loss": name, "step": step, "count": count})


# --- wording -------------------------------------------------------------------------------------


def _names(frame: pd.DataFrame, column: str = "loss") -> list[str]:
    """The names in a column, in the order of their first appearance."""
    return [str(name) for name in frame[column].unique()]


def _means(frame: pd.DataFrame, column: str) -> dict[str, float]:
    """The mean of a column for each loss, the largest first."""
    means = {n: float(frame[column][frame["loss"] == n].mean()) for n in _names(frame)}
    return dict(sorted(means.items(), key=lambda item: -item[1]))


def _percent(part: float) -> str:
    return f"{100 * part:.3g} %"


def _percentages(parts: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {_percent(part)}" for name, part in parts.items())


def _ranges(epochs: Iterable[int]) -> str:
    """Ascending numbers in words, such as "3 to 5, 9"."""
    runs: list[list[int]] = []
    for epoch in map(int, epochs):
        if runs and epoch == runs[-1][1] + 1:
            runs[-1][1] = epoch
        else:
            runs.append([epoch, epoch])
    return ", ".join(f"{a} to {b}" if b > a else str(a) for a, b in runs)
