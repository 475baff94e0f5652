"""The objectives of pix2pix: names and default weights of their losses; no torch."""

from __future__ import annotations

from typing import get_args

from nectargan.config.choices import Objective
from nectargan.errors import LossError, did_you_mean

OBJECTIVES: tuple[str, ...] = get_args(Objective)
DISCRIMINATOR = ("D_real", "D_fake")
# They judge the discriminator's logits; all others compare the generated image with the target.
ADVERSARIAL = ("G_GAN", *DISCRIMINATOR)

# 1 and 100 as in Isola et al. 2017, who also halve the loss of D to slow it down against G.
_BASIC = {"G_GAN": 1.0, "G_L1": 100.0, "D_real": 0.5, "D_fake": 0.5}
_EXTENDED = {"G_L2": 10.0, "G_SOBEL": 3.0, "G_LAP": 1.0}
_VGG = {"G_VGG": 10.0}

# Losses that any objective can have besides, with their usual weight (10 in Wang et al. 2018).
OPTIONAL = {"G_FM": 10.0}


def objective_weights(objective: str = "extended+vgg") -> dict[str, float]:
    """The default weight of each loss of an objective, by name.

    Raises:
        LossError: ``objective`` is none of `OBJECTIVES`.
    """
    if objective not in OBJECTIVES:
        raise LossError(f"{objective!r} is no objective." + did_you_mean(objective, OBJECTIVES))
    weights = dict(_BASIC)
    if objective.startswith("extended"):
        weights |= _EXTENDED
    if objective.endswith("+vgg"):
        weights |= _VGG
    return weights
