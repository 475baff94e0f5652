"""The losses of pix2pix, as specs for `LossManager.init_from_spec`.

This is where the names of losses and their default weights are written down.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path

from torch import nn

from nectargan.errors import LossError, did_you_mean
from nectargan.losses.lm_data import LMLoss
from nectargan.losses.losses import (
    AdversarialLoss,
    FeatureMatchingLoss,
    LaplacianLoss,
    SobelLoss,
)
from nectargan.losses.vgg import VGGPerceptualLoss

OBJECTIVES = ("basic", "basic+vgg", "extended", "extended+vgg")
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
    """The default weight of each loss of an objective, by name; builds nothing.

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


def pix2pix(
    objective: str = "basic",
    gan_mode: str = "vanilla",
    vgg_weights: str | Path | None = None,
    channels: int = 3,
    replaced: Mapping[str, nn.Module] | None = None,
    extra: Collection[str] = (),
) -> dict[str, LMLoss]:
    """The losses of an objective, each with its default weight.

    ``G_GAN``, ``D_real`` and ``D_fake`` take the discriminator's logits alone; all others take
    (generated, target), images ``(N, C, H, W)`` in [-1, 1]. Tags: ``"G"`` or ``"D"``, and the kind,
    ``"adversarial"``, ``"pixel"``, ``"structure"`` or ``"perceptual"``.

    ``G_FM``, of the kind ``"feature"``, is there only if ``extra`` names it; it takes what the
    discriminator's layers make of both, see `FeatureMatchingLoss`.

    Args:
        objective: "basic" is G_GAN and G_L1 (Isola et al. 2017); "extended" adds G_L2, G_SOBEL and
            G_LAP; "+vgg" adds G_VGG.
        gan_mode: "vanilla", "lsgan" or "hinge"; see `AdversarialLoss`.
        vgg_weights: File with torchvision's VGG19 weights; without one they are downloaded.
        channels: Channels of the target image, for G_VGG.
        replaced: Functions by name of the loss that take the place of the objective's.
        extra: Names of losses in `OPTIONAL` to have besides.

    Raises:
        LossError: an unknown objective or mode.
        CheckpointError: the VGG19 weights cannot be had.
    """
    makers: dict[str, tuple[Callable[[], nn.Module], str]] = {
        "G_GAN": (lambda: AdversarialLoss(gan_mode, generator=True), "adversarial"),
        "G_L1": (nn.L1Loss, "pixel"),
        "D_real": (lambda: AdversarialLoss(gan_mode, real=True), "adversarial"),
        "D_fake": (lambda: AdversarialLoss(gan_mode, real=False), "adversarial"),
        "G_L2": (nn.MSELoss, "pixel"),
        "G_SOBEL": (SobelLoss, "structure"),
        "G_LAP": (LaplacianLoss, "structure"),
        "G_VGG": (lambda: VGGPerceptualLoss(vgg_weights, channels), "perceptual"),
        "G_FM": (FeatureMatchingLoss, "feature"),
    }
    weights = objective_weights(objective) | {name: OPTIONAL[name] for name in extra}
    losses = {}
    for name, weight in weights.items():
        make, kind = makers[name]
        function = (replaced or {}).get(name) or make()
        losses[name] = LMLoss(name, function, loss_weight=weight, tags=[name[0], kind])
    return losses
