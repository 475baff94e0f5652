"""Rules that set the weights of losses from their gradients, or their values, at every step.

A rule is a `Balancer`. `ShareRule` is used for losses with a share; the others are chosen by name
in ``train.balancer``, or by the import path of a custom class.
"""

from __future__ import annotations

from collections.abc import Callable

from nectargan.losses.balancing.balancer import Balancer
from nectargan.losses.balancing.loss_ratios import DWA, ReLoBRaLo, SoftAdapt
from nectargan.losses.balancing.shares import Share, ShareRule, vqgan
from nectargan.losses.balancing.torchjd import TorchJD

__all__ = [
    "BALANCERS",
    "DWA",
    "Balancer",
    "ReLoBRaLo",
    "Share",
    "ShareRule",
    "SoftAdapt",
    "TorchJD",
]

# Called with the names of the losses and the arguments of the config.
BALANCERS: dict[str, Callable[..., Balancer]] = {
    "vqgan": vqgan,
    "softadapt": SoftAdapt,
    "relobralo": ReLoBRaLo,
    "dwa": DWA,
    "torchjd": TorchJD,
}
