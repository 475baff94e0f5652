"""Estimates a lower bound for the time of a training step on this machine."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from nectargan.build import build_discriminator, build_generator, height_and_width
from nectargan.config.schema import Config


def floor(config: Config, device: torch.device, precision: str) -> tuple[float, str]:
    """A lower bound for the time of a step.

    For each parameter, Adam reads four numbers (the parameter, its gradient, two moments) and
    writes three: 28 bytes. The forward and backward passes read each weight twice and write its
    gradient once: 12 bytes in fp32; 8 bytes, and 6 for the cast, in bf16. The passes take at least
    the time of these transfers, or of their floating-point operations if that is longer.
    Activations are not counted. Bandwidth and rate are measured with a large copy and a large
    matrix product.

    Returns:
        Seconds, and a text with the numbers they were computed from.
    """
    networks = [build_generator(config), build_discriminator(config)]
    parameters = sum(p.numel() for network in networks for p in network.parameters())
    flops = _flops(config)
    bandwidth, rate = _bandwidth(device), matmul_rate(device, precision)
    adam = 28 * parameters / bandwidth
    passes = max((14 if precision == "bf16" else 12) * parameters / bandwidth, flops / rate)
    return adam + passes, (
        f"{parameters / 1e6:.1f} M parameters, {flops / 1e9:.0f} GFLOP, "
        f"{bandwidth / 1e9:.0f} GB/s, {rate / 1e12:.3g} TFLOP/s"
    )


def _flops(config: Config) -> float:
    """Number of floating-point operations of a plain step, counted on the meta device."""
    from torch.utils.flop_counter import FlopCounterMode

    meta = torch.device("meta")
    with FlopCounterMode(display=False) as counter:
        g, d = build_generator(config).to(meta), build_discriminator(config).to(meta)
        x = torch.empty(
            config.dataloader.batch_size,
            3,
            *height_and_width(config.dataloader.load.crop_size),
            device=meta,
        )
        fake = g(x)
        (d(x, x).sum() + d(x, fake.detach()).sum()).backward()
        d.requires_grad_(False)
        d(x, fake).sum().backward()
    return float(counter.get_total_flops())


def best_of(action: Callable[[], object], device: torch.device, times: int = 5) -> float:
    """Minimum time in seconds of several runs of ``action``, each until the device is idle."""
    seconds = []
    for _ in range(times):
        began = time.perf_counter()
        action()
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
    return min(seconds)


def _bandwidth(device: torch.device) -> float:
    """Bytes per second, read plus written, of a large copy."""
    source = torch.zeros(2**28 if device.type == "cuda" else 2**26, device=device)
    copy = torch.empty_like(source)
    return 2 * source.numel() * 4 / best_of(lambda: copy.copy_(source), device)


def matmul_rate(device: torch.device, precision: str) -> float:
    """Floating-point operations per second of a large matrix product."""
    side = 8192 if device.type == "cuda" else 2048
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    matrix = torch.randn(side, side, device=device, dtype=dtype)
    return 2 * side**3 / best_of(lambda: matrix @ matrix, device)
