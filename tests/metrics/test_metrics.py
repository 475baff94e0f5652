"""`METRICS` is the only list of metrics; closed forms of what it holds."""

from __future__ import annotations

import math

import pytest
import torch

from nectargan.metrics import (
    METRICS,
    OF_VALIDATION,
    USUAL_SERIES,
    is_lower_better,
    label_of,
    psnr,
    ssim,
)
from nectargan.metrics import l1 as mean_difference
from tests.test_architecture import PACKAGE


def test_closed_forms() -> None:
    black, grey = torch.zeros(2, 3, 16, 16), torch.full((2, 3, 16, 16), 0.5)
    assert mean_difference(black, grey).tolist() == [0.5, 0.5]
    assert psnr(black, grey).tolist() == pytest.approx([20 * math.log10(2)] * 2)
    assert ssim(grey, grey).tolist() == pytest.approx([1.0, 1.0])


@pytest.mark.parametrize("name", [name for name in OF_VALIDATION if not METRICS[name].network])
def test_the_direction_is_that_of_the_values(name: str) -> None:
    """The better image has the better value."""
    metric = METRICS[name]
    torch.manual_seed(0)
    target = torch.rand(1, 3, 176, 176)
    noise = torch.randn(1, 3, 176, 176)
    near, far = ((target + part * noise).clamp(0, 1) for part in (0.05, 0.4))
    good, bad = (metric.function(each, target).item() for each in (near, far))
    assert (good > bad) == metric.higher_is_better
    for kind in ("val", "best"):
        assert is_lower_better(f"{kind}/{name}") == (not metric.higher_is_better)
    smallest = torch.rand(1, 1, metric.least_side, metric.least_side)
    assert metric.function(smallest, smallest.flip(3)).shape == (1,)
    assert label_of(f"val/{name}") == metric.label


def test_directions_of_others() -> None:
    assert not is_lower_better("val/mine")
    assert is_lower_better("val/mine", {"mine"})
    assert is_lower_better("best/mine", {"mine"})
    # What is built in cannot be turned around.
    assert not is_lower_better(USUAL_SERIES, {"ssim"})
    assert label_of("val/mine") == "mine"


def test_metrics_are_listed_in_one_place() -> None:
    for path in PACKAGE.rglob("*.py"):
        if path.parent.name != "metrics" and path.name != "metric_options.py":
            text = path.read_text(encoding="utf-8")
            assert '"val/l1"' not in text, path
            assert '"val/psnr"' not in text, path
