"""Sentences about a run follow from its record, and from nothing else."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nectargan.analysis.explain import Finding, RunRecord, explain
from nectargan.analysis.run_changes import Change
from nectargan.config.config_manager import ConfigManager
from nectargan.config.schema import Config

STEPS = 100  # of an epoch
Values = Mapping[str, Sequence[float]]


def config(epochs: int, **options: object) -> Config:
    length = ("train.generator.learning_rate", {"epochs": epochs, "epochs_decay": 0})
    return ConfigManager(
        {}, [length, *((k.replace("__", "."), v) for k, v in options.items())]
    ).data


def losses(weighted: Values, raw: Values | None = None) -> pd.DataFrame:
    """Losses that have one value in each epoch, in all of its steps."""
    rows = []
    for epoch in range(1, 1 + max(map(len, weighted.values()))):
        for step in range((epoch - 1) * STEPS + 1, epoch * STEPS + 1):
            for name, values in weighted.items():
                value = values[epoch - 1]
                rows.append(
                    (step, epoch, step, name, (raw or weighted)[name][epoch - 1], 1.0, value)
                )
    return pd.DataFrame(
        rows, columns=["step", "epoch", "time", "loss", "raw", "weight", "weighted"]
    ).astype({"loss": "category"})


def metrics(series: Values, every: int = STEPS) -> pd.DataFrame:
    rows = [
        (every * n, math.ceil(every * n / STEPS), n, name, value)
        for name, values in series.items()
        for n, value in enumerate(values, 1)
    ]
    frame = pd.DataFrame(rows, columns=["step", "epoch", "time", "metric", "value"])
    return frame.astype({"metric": "category"})


def gradients(shares: Values) -> pd.DataFrame:
    rows = [
        (STEPS * n, n, n, name, 10 * share, share, 0.1)
        for name, values in shares.items()
        for n, share in enumerate(values, 1)
    ]
    frame = pd.DataFrame(rows, columns=["step", "epoch", "time", "loss", "norm", "share", "cosine"])
    return frame.astype({"loss": "category"})


TWO = losses({"G_GAN": [0.6] * 10, "G_L1": [11.4] * 10})
NO_METRICS = metrics({})


def told(found: Iterable[Finding], topic: str) -> list[str]:
    return [finding.text for finding in found if finding.topic == topic]


def test_the_share_of_each_loss_by_gradient_and_by_value() -> None:
    shares = gradients({"G_GAN": [0.03] * 9 + [0.2], "G_L1": [0.97] * 9 + [0.8]})
    found = explain(RunRecord(TWO, NO_METRICS, shares))
    assert told(found, "pull") == [
        "In epoch 10 the pull on the generated images was G_L1 80 %, G_GAN 20 % (mean share of the "
        "gradient in 1 step); by value the losses were G_L1 95 %, G_GAN 5 %.",
        "The share of G_GAN rose from 3 % in epoch 1 to 20 % in epoch 10.",
        "The share of G_L1 fell from 97 % in epoch 1 to 80 % in epoch 10.",
    ]
    assert found[0].figures["share"] == pytest.approx({"G_L1": 0.8, "G_GAN": 0.2})
    assert found[0].figures["value"] == pytest.approx({"G_L1": 0.95, "G_GAN": 0.05})


def test_without_gradients_the_values_are_printed_and_what_is_missing() -> None:
    (text,) = told(explain(RunRecord(TWO, NO_METRICS)), "pull")
    assert text == (
        "By value, the losses of the generator were G_L1 95 %, G_GAN 5 % in epoch 10; how strongly "
        "each of them pulled is not on record (no gradients)."
    )


def test_a_negative_loss_has_a_part_as_well() -> None:
    """As that of the generator is with the hinge objective."""
    record = RunRecord(losses({"G_GAN": [-1.0], "G_L1": [3.0]}), NO_METRICS)
    assert explain(record)[0].figures["value"] == pytest.approx({"G_L1": 0.75, "G_GAN": 0.25})


def test_pairs_that_pulled_against_each_other_and_when() -> None:
    cosines = [0.1, -0.2, -0.3, -0.4, 0.0, 0.0, -0.15, 0.2, -0.05, 0.0]
    points = metrics({"gradient/cosine/G_GAN vs G_L1": cosines})
    (finding,) = [each for each in explain(RunRecord(TWO, points)) if each.topic == "conflict"]
    assert finding.text == (
        "G_GAN and G_L1 pulled against each other in 4 of 10 epochs, 2 to 4, 7: the cosine was "
        "-0.26 on average there, and lowest in epoch 4, -0.40."
    )
    assert finding.figures["epochs"] == [2, 3, 4, 7]


def test_that_no_pair_pulled_against_each_other() -> None:
    points = metrics({"gradient/cosine/G_GAN vs G_L1": [0.1, -0.05, math.nan, 0.3]})
    assert told(explain(RunRecord(TWO, points)), "conflict") == [
        "No pair of losses pulled against each other in the epochs with gradients, 1 to 2, 4: the "
        "lowest cosine was -0.05, of G_GAN and G_L1 in epoch 2."
    ]


def test_when_d_won() -> None:
    """In the second window alone, and then from the seventh on, which is step 301."""
    accuracy = [0.7, 0.99, 0.8, 0.7, 0.8, 0.9] + [0.96, 0.98] * 7
    found = explain(RunRecord(TWO, metrics({"discriminator/accuracy": accuracy}, 50)))
    assert told(found, "balance") == [
        "D won at step 301: its accuracy was at least 95 % from there to the end (mean 97 %)."
    ]
    accuracy = [0.96] * 8 + [0.8] * 12
    found = explain(RunRecord(TWO, metrics({"discriminator/accuracy": accuracy}, 50)))
    assert told(found, "balance") == [
        "D won at step 1: its accuracy was at least 95 % from there to step 400 (mean 96 %)."
    ]


def test_that_d_did_not_win() -> None:
    found = explain(RunRecord(TWO, metrics({"discriminator/accuracy": [0.6, 0.8, 0.7]}, 50)))
    assert told(found, "balance") == [
        "D did not win: its accuracy was 70 % on average and at most 80 % (step 100)."
    ]


@pytest.mark.parametrize(("mode", "low"), [("vanilla", 0.13), ("lsgan", 0.04), ("hinge", 0.19)])
def test_without_an_accuracy_the_loss_of_d_tells(mode: str, low: float) -> None:
    halves = [0.5] * 6 + [low / 2] * 4
    of_d = losses({"D_real": halves, "D_fake": halves, "G_L1": [1.0] * 10})
    found = explain(RunRecord(of_d, NO_METRICS, config=config(10, train__gan_mode=mode)))
    (text,) = told(found, "balance")
    assert text.startswith("D won at step 601: its loss D_real + D_fake was at most ")
    assert text.endswith(f"from there to the end (mean {low:.3g}).")
    # Without a config nobody knows what the loss of a discriminator that guesses is.
    assert told(explain(RunRecord(of_d, NO_METRICS)), "balance") == []


RISING = [0.1, 0.2, 0.3, 0.35, 0.38, 0.39, 0.4, 0.41, 0.42, 0.43]


@pytest.mark.parametrize(
    ("series", "values"),
    [("val/ssim", RISING), ("val/l1", [1 - value for value in RISING])],
)
def test_validation_that_was_still_improving(series: str, values: list[float]) -> None:
    points = metrics({series: values, "lr/generator": [2e-4] * 9 + [1e-5]})
    whole = config(10, validation__metrics=[series.removeprefix("val/")])
    (text,) = told(explain(RunRecord(TWO, points, config=whole, status="FINISHED")), "validation")
    late, before = (sum(values[a:b]) / 2 for a, b in ((8, 10), (6, 8)))
    assert text == (
        f"{series} was still improving when the schedule ended: it was best, {values[-1]:.4g} in "
        f"epoch 10, and its mean over the last 2 epochs was {late:.4g} after {before:.4g} over the "
        "2 before, with a learning rate of 1e-05."
    )
    stopped = RunRecord(TWO, points, config=config(20), status="KILLED")
    (text,) = told(explain(stopped), "validation")
    assert "still improving when the run ended" in text


def test_validation_that_was_not() -> None:
    points = metrics({"val/ssim": [0.1, 0.2, 0.4, 0.39, 0.38, 0.39, 0.38, 0.37, 0.39, 0.38]})
    found = explain(RunRecord(TWO, points, config=config(10), status="FINISHED"))
    assert told(found, "validation") == [
        "val/ssim was best, 0.4 in epoch 3, and 0.38 in epoch 10, when the schedule ended: it was "
        "no longer improving."
    ]


def test_three_values_are_no_trend() -> None:
    points = metrics({"val/ssim": [0.1, 0.2, 0.3]})
    assert told(explain(RunRecord(TWO, points)), "validation") == [
        "val/ssim was best, 0.3 in epoch 3, of 3 epochs on record: too few for a trend."
    ]


@pytest.mark.parametrize(
    ("weights", "told_of"),
    [
        (
            [0.5, 2.0, 10.0, 10.0],
            "was at its highest value, 10, in 200 of 400 steps, first at step "
            "201: its share was not held there.",
        ),
        (
            [0.1, 0.1, 10.0, 5.0],
            "was at its highest value, 10, in 100 of 400 steps, first at step "
            "201; and at its lowest value, 0.1, in 200 of 400 steps, first at step 1: its share "
            "was not held there.",
        ),
        ([0.5, 2.0, 3.0, 9.0], "was never at a bound: it was 0.5 to 9, and may be 0.1 to 10."),
    ],
)
def test_a_weight_at_its_bound(weights: list[float], told_of: str) -> None:
    rows = losses({"G_GAN": [1.0] * 4, "G_L1": [1.0] * 4})
    of_gan = rows["loss"] == "G_GAN"
    rows.loc[of_gan, "weight"] = [weights[epoch - 1] for epoch in rows["epoch"][of_gan]]
    shared = config(4, train__loss={"G_GAN": {"share": 0.2, "min": 0.1, "max": 10.0}})
    found = explain(RunRecord(rows, NO_METRICS, config=shared))
    assert told(found, "weight") == [f"The weight of G_GAN {told_of}"]


def test_a_loss_that_was_not_finite() -> None:
    values = {"G_L1": [1.0, math.nan, 2.0]}
    (text,) = told(explain(RunRecord(losses(values), NO_METRICS)), "record")
    assert text == "G_L1 was nan at step 101, the first of 100 values that are not finite."


def test_an_empty_record_gives_no_lines() -> None:
    assert explain(RunRecord(TWO.head(0), NO_METRICS)) == []


NAMES = ["G_GAN", "G_L1", "G_L2", "D_real", "D_fake", "own"]
numbers = st.floats(-1e3, 1e3) | st.sampled_from([math.nan, math.inf, 0.0])
parts = st.floats(0, 1) | st.just(math.nan)
cosines = st.floats(-1, 1) | st.just(math.nan)


@st.composite
def records(draw: st.DrawFn) -> tuple[RunRecord, list[str]]:
    epochs = draw(st.integers(1, 6))

    def some(values: st.SearchStrategy[float], keys: Sequence[str]) -> dict[str, list[float]]:
        chosen = draw(st.lists(st.sampled_from(keys), unique=True)) if keys else []
        return {k: draw(st.lists(values, min_size=epochs, max_size=epochs)) for k in chosen}

    names = draw(st.lists(st.sampled_from(NAMES), unique=True, min_size=1))
    value_lists = st.lists(numbers, min_size=epochs, max_size=epochs)
    values = {name: draw(value_lists) for name in names}
    # Also of losses that are not on record.
    pairs = [f"gradient/cosine/{a} vs {b}" for a in NAMES for b in NAMES if a < b]
    points = {
        **some(cosines, pairs),
        **some(parts, ["discriminator/accuracy"]),
        **some(numbers, ["val/ssim", "val/l1", "lr/generator"]),
    }
    recorded = gradients(some(parts, names)) if draw(st.booleans()) else None
    mode = draw(st.sampled_from([None, "vanilla", "lsgan", "hinge"]))
    of = None if mode is None else config(draw(st.integers(1, 6)), train__gan_mode=mode)
    status = draw(st.sampled_from(["", "RUNNING", "KILLED", "FINISHED"]))
    return RunRecord(losses(values), metrics(points), recorded, of, status), names


@settings(max_examples=60)
@given(records())
def test_each_sentence_has_its_figures_and_names_only_what_is_on_record(
    given: tuple[RunRecord, list[str]],
) -> None:
    record, names = given
    for topic, text, figures in explain(record):
        assert text.endswith(".")
        assert "\n" not in text
        assert figures, text
        assert re.search(r"\d", text), text
        for name in NAMES:
            if name in re.findall(r"\w+", text):
                assert name in names, (topic, text)
        for word in re.findall(r"\bval/\w+", text):
            assert word in set(record.metrics["metric"])
        for cause in ("accuracy", "cosine"):
            if cause in text:
                assert any(cause in str(metric) for metric in record.metrics["metric"].unique())


# --- runs in which something is missing or broken ------------------------------------------------


def test_steps_with_a_share_that_is_not_defined_do_not_count() -> None:
    """A loss beside one with an infinite gradient has the share 0, which says nothing of it."""
    shares = gradients({"G_GAN": [0.0] * 10, "G_L1": [math.nan] * 10})
    points = metrics({"gradient/cosine/G_GAN vs G_L1": [0.0] * 10})
    found = explain(RunRecord(TWO, points, shares))
    (text,) = told(found, "pull")
    assert "how strongly each of them pulled is not known" in text
    assert told(found, "conflict") == []
    assert told(found, "record") == [
        "The norm of the gradient of G_L1 was nan at step 100, the first of 10 norms that are not "
        "finite."
    ]
    shares.loc[(shares["loss"] == "G_L1") & (shares["epoch"] < 9), ["norm", "share"]] = 1.0
    (text, *_) = told(explain(RunRecord(TWO, points, shares)), "pull")
    assert text.startswith("In epoch 8 the pull on the generated images was G_L1 100 %, G_GAN 0 %")


def test_a_loss_that_was_never_finite_has_no_part_of_the_values() -> None:
    rows = losses({"G_GAN": [1.0] * 2, "G_L1": [math.inf] * 2})
    assert told(explain(RunRecord(rows, NO_METRICS)), "pull") == []


def test_a_weight_that_is_too_large_for_float32_is_found() -> None:
    rows = losses({"G_GAN": [1.0] * 2})
    rows.loc[rows["step"] > STEPS, "weighted"] = math.inf
    (text,) = told(explain(RunRecord(rows, NO_METRICS)), "record")
    assert text.startswith("G_GAN with its weight was inf at step ")


def test_gradients_of_a_part_of_the_run_say_nothing_of_the_rest() -> None:
    points = metrics({"gradient/cosine/G_GAN vs G_L1": [0.1] * 10})
    points = points[points["epoch"].isin([4, 5, 9])]
    assert told(explain(RunRecord(TWO, points)), "conflict") == [
        "No pair of losses pulled against each other in the epochs with gradients, 4 to 5, 9: the "
        "lowest cosine was 0.10, of G_GAN and G_L1 in epoch 4."
    ]


def test_validation_that_never_changed() -> None:
    found = explain(RunRecord(TWO, metrics({"val/ssim": [0.25] * 10})))
    assert told(found, "validation") == ["val/ssim was 0.25 in all 10 epochs on record."]


def test_options_that_were_changed() -> None:
    change = Change(4, {"train.loss.G_GAN": [1.0, 50.0]})
    found = explain(RunRecord(TWO, NO_METRICS, changes=[change]))
    assert told(found, "record") == [
        "Options were changed in the run, first in epoch 4: loss.G_GAN 1.0 to 50.0."
    ]
