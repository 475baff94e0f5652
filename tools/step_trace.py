"""Profiles some steps, and counts how often they wait for the device."""

from __future__ import annotations

from pathlib import Path

import click
from step_variants import Loop, Setting, Stepper, Variant

TRACED_STEPS = 5
WAITS = (
    "aten::item",
    "aten::_local_scalar_dense",
    "aten::nonzero",
    "cudaStreamSynchronize",
    "cudaEventSynchronize",
    "cudaDeviceSynchronize",
)


def trace(setting: Setting, path: Path) -> dict[str, int]:
    """Profiles some steps within a window; returns how often each waiting call occurred."""
    from torch.profiler import ProfilerActivity, profile, record_function

    cuda = setting.device.type == "cuda"
    variant = Variant("csv", "graph" if cuda else "eager", "bf16" if cuda else "fp32", 1)
    stepper = Stepper(setting, variant, Loop(setting.config(variant)))
    stepper.run(3)
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * cuda
    with profile(activities=activities) as profiler:
        stepper.step()  # a window may end here, because starting the profiler takes long
        with record_function("traced steps"):
            for _ in range(TRACED_STEPS):
                stepper.step()
    profiler.export_chrome_trace(str(path))
    stepper.close()
    click.echo(profiler.key_averages().table(sort_by="cpu_time_total", row_limit=15))
    events = profiler.events()
    # The span is also on the time line of the device, where it begins later.
    span = min(
        (e.time_range for e in events if e.name == "traced steps"), key=lambda time: time.start
    )
    names = [e.name for e in events if span.start <= e.time_range.start <= span.end]
    waits = {name: names.count(name) for name in WAITS}
    for name, times in waits.items():
        click.echo(f"{name}: {times}")
    return waits
