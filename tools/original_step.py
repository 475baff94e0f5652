"""The training step of NectarGAN v0.2.3 on a CPU, for benchmarks.

It is a new implementation of what that version trained by default: float32 (autocast was only for
CUDA), a U-Net with reflect padding and the activation after the norm, a discriminator of 665,665
parameters, unfused Adam, gradients of the weights of D also in the update of G, one gradient scaler
for both networks, which was active on a CPU, and `.item()` for each computed loss.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nectargan.build import height_and_width
from nectargan.config.network_options import PatchGAN, Unet
from nectargan.config.schema import Config


def halving(nc_in: int, nc_out: int, norm: bool, activation: nn.Module) -> nn.Sequential:
    layers: list[nn.Module] = [
        nn.Conv2d(nc_in, nc_out, 4, 2, 1, bias=not norm, padding_mode="reflect")
    ]
    return nn.Sequential(*layers, *([nn.InstanceNorm2d(nc_out)] if norm else []), activation)


def doubling(nc_in: int, nc_out: int, dropout: bool) -> nn.Sequential:
    layers: list[nn.Module] = [
        nn.ConvTranspose2d(nc_in, nc_out, 4, 2, 1, bias=False),
        nn.InstanceNorm2d(nc_out),
        nn.ReLU(),
    ]
    return nn.Sequential(*layers, *([nn.Dropout(0.5)] if dropout else []))


class Generator(nn.Module):
    def __init__(self, features: int, n_downs: int) -> None:
        super().__init__()
        last = n_downs + 1
        widths = [features * min(2**level, 8) for level in range(n_downs + 2)]
        self.downs = nn.ModuleList(
            halving(
                nc_in,
                nc_out,
                norm=0 < level < last,
                activation=nn.ReLU() if level == last else nn.LeakyReLU(0.2),
            )
            for level, (nc_in, nc_out) in enumerate(zip([3, *widths], widths, strict=False))
        )
        outs = widths[-2::-1]
        ins = [widths[-1], *(2 * width for width in outs)]
        self.ups = nn.ModuleList(
            doubling(nc_in, nc_out, dropout=level < 3)
            for level, (nc_in, nc_out) in enumerate(zip(ins, outs, strict=False))
        )
        self.last = nn.ConvTranspose2d(ins[-1], 3, 4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        skips = []
        for down in self.downs:
            x = down(x)
            skips.append(x)
        x = skips.pop()
        for up in self.ups:
            x = torch.cat((up(x), skips.pop()), dim=1)
        return torch.tanh(self.last(x))


class Discriminator(nn.Module):
    def __init__(self, base: int) -> None:
        super().__init__()

        def convolution(nc_in: int, nc_out: int, stride: int, bias: bool) -> nn.Conv2d:
            return nn.Conv2d(nc_in, nc_out, 4, stride, 1, bias=bias, padding_mode="reflect")

        self.layers = nn.Sequential(
            convolution(6, base, 2, bias=True),
            nn.LeakyReLU(0.2, inplace=True),
            convolution(base, 2 * base, 2, bias=False),
            nn.InstanceNorm2d(2 * base),
            nn.LeakyReLU(0.2, inplace=True),
            convolution(2 * base, 4 * base, 1, bias=False),
            nn.InstanceNorm2d(4 * base),
            nn.LeakyReLU(0.2, inplace=True),
            convolution(4 * base, 1, 1, bias=True),
        )

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        scores: Tensor = self.layers(torch.cat((x, y), dim=1))
        return scores


def original_step(config: Config) -> Callable[[], None]:
    """Returns a function that updates D and G once, on random images of the size in ``config``.

    D always has two convolutions with stride 2, as with ``n_layers: 3`` in v0.2.3.
    """
    unet, patchgan = config.train.generator, config.train.discriminator
    if not isinstance(unet, Unet) or not isinstance(patchgan, PatchGAN):
        raise TypeError("v0.2.3 had a U-Net and a PatchGAN")
    batch = config.dataloader.batch_size
    g = Generator(unet.features, unet.n_downs)
    d = Discriminator(patchgan.base_channels)
    adam_g, adam_d = (torch.optim.Adam(n.parameters(), lr=2e-4, betas=(0.5, 0.999)) for n in (g, d))
    scaler = torch.amp.GradScaler("cpu")
    height, width = height_and_width(config.dataloader.load.crop_size)
    x, y = torch.rand(2, batch, 3, height, width) * 2 - 1

    def recorded(loss: Tensor, weight: float = 1.0) -> Tensor:
        loss = loss * weight
        loss.detach().clone().mean().item()
        return loss

    def against(scores: Tensor, value: float) -> Tensor:
        return recorded(F.binary_cross_entropy_with_logits(scores, torch.full_like(scores, value)))

    def update(network: nn.Module, adam: torch.optim.Adam, loss: Tensor) -> None:
        network.zero_grad()
        scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        scaler.step(adam)
        scaler.update()

    def step() -> None:
        generated = g(x)
        on_real, on_fake = d(x, y), d(x, generated.detach())
        update(d, adam_d, (against(on_real, 1) + against(on_fake, 0)) * 0.5)
        update(g, adam_g, against(d(x, generated), 1) + recorded(F.l1_loss(generated, y), 100))

    return step
