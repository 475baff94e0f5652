"""The objectives of pix2pix: the names and default weights of their losses.

This module does not import torch.
"""

from __future__ import annotations

from typing import get_args

from nectargan.config.choices import Objective
from nectargan.errors import LossError, did_you_mean

OBJECTIVES: tuple[str, ...] = get_args(Objective)
PENALTY = "D_R1"
DISCRIMINATOR = ("D_real", "D_fake", PENALTY)
# These losses look at the discriminator alone; all others take (generated, target).
ADVERSARIAL = ("G_GAN", *DISCRIMINATOR)

# 1 and 100 as in Isola et al. 2017, who also halve the loss of D so that D learns more slowly.
_BASIC = {"G_GAN": 1.0, "G_L1": 100.0, "D_real": 0.5, "D_fake": 0.5}
_EXTENDED = {"G_L2": 10.0, "G_SOBEL": 3.0, "G_LAP": 1.0}
_VGG = {"G_VGG": 10.0}

# Losses that can be added to any objective, with the default weight: 10 in Wang et al. 2018, and in
# Mescheder et al. 2018.
OPTIONAL = {"G_FM": 10.0, PENALTY: 10.0}


def objective_weights(objective: str = "extended+vgg") -> dict[str, float]:
    """The default weight of each loss of an objective, by name.

    Raises:
        LossError: If ``objective`` is not one of `OBJECTIVES`.
    """
    if objective not in OBJECTIVES:
        raise LossError(
            f"There is no objective {objective!r}." + did_you_mean(objective, OBJECTIVES)
        )
    weights = dict(_BASIC)
    if objective.startswith("extended"):
        weights |= _EXTENDED
    if objective.endswith("+vgg"):
        weights |= _VGG
    return weights
