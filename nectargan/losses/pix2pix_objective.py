"""The losses of pix2pix, in the form that `LossManager.init_from_spec` takes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

from torch import nn

from nectargan.config.objectives import OPTIONAL, objective_weights
from nectargan.losses.lm_data import LMLoss
from nectargan.losses.losses import (
    AdversarialLoss,
    FeatureMatchingLoss,
    LaplacianLoss,
    R1Penalty,
    SobelLoss,
)
from nectargan.losses.vgg import VGGPerceptualLoss


def pix2pix(
    objective: str = "basic",
    gan_mode: str = "vanilla",
    vgg_weights: str | Path | None = None,
    channels: int = 3,
    replaced: Mapping[str, nn.Module] | None = None,
    extra: Collection[str] = (),
    label_smoothing: float = 0.0,
    vgg_selection: Sequence[int] | None = None,
) -> dict[str, LMLoss]:
    """Builds the losses of an objective with their default weights.

    ``G_GAN``, ``D_real`` and ``D_fake`` take only the logits of the discriminator. The other losses
    take (generated, target), images ``(N, C, H, W)`` in [-1, 1]. Each loss has two tags: ``"G"`` or
    ``"D"``, and its kind, ``"adversarial"``, ``"pixel"``, ``"structure"`` or ``"perceptual"``.

    ``G_FM``, of the kind ``"feature"``, is only included if ``extra`` names it. It takes features
    of the discriminator; see `FeatureMatchingLoss`. So is ``D_R1``, of the kind ``"penalty"``; see
    `R1Penalty`.

    Args:
        objective: "basic" is G_GAN and G_L1 (Isola et al. 2017); "extended" adds G_L2, G_SOBEL and
            G_LAP; "+vgg" adds G_VGG.
        gan_mode: "vanilla", "lsgan" or "hinge"; see `AdversarialLoss`.
        vgg_weights: File with torchvision's VGG19 weights; ``None`` to download them.
        channels: Channels of the target image, for G_VGG.
        vgg_selection: Numbers from 0 of the three channels that G_VGG compares; ``None`` for all.
        replaced: Loss functions that replace those of the objective, by the name of the loss.
        extra: Names of losses in `OPTIONAL` to add.
        label_smoothing: Of ``D_real``; see `AdversarialLoss`.

    Raises:
        LossError: If the objective or the mode is unknown.
        CheckpointError: If the VGG19 weights cannot be read or downloaded.
    """
    makers: dict[str, tuple[Callable[[], nn.Module], str]] = {
        "G_GAN": (lambda: AdversarialLoss(gan_mode, generator=True), "adversarial"),
        "G_L1": (nn.L1Loss, "pixel"),
        "D_real": (
            lambda: AdversarialLoss(gan_mode, real=True, label_smoothing=label_smoothing),
            "adversarial",
        ),
        "D_fake": (lambda: AdversarialLoss(gan_mode, real=False), "adversarial"),
        "G_L2": (nn.MSELoss, "pixel"),
        "G_SOBEL": (SobelLoss, "structure"),
        "G_LAP": (LaplacianLoss, "structure"),
        "G_VGG": (lambda: VGGPerceptualLoss(vgg_weights, channels, vgg_selection), "perceptual"),
        "G_FM": (FeatureMatchingLoss, "feature"),
        "D_R1": (R1Penalty, "penalty"),
    }
    weights = objective_weights(objective) | {name: OPTIONAL[name] for name in extra}
    losses = {}
    for name, weight in weights.items():
        make, kind = makers[name]
        function = (replaced or {}).get(name) or make()
        losses[name] = LMLoss(name, function, loss_weight=weight, tags=[name[0], kind])
    return losses
