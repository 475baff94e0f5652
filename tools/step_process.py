"""Runs a training step for each line of its standard input.

    python tools/step_process.py original|defaults|ours CONFIG

"original" is the step of v0.2.3. "ours" is our step with the settings of ``nectargan-train``;
"defaults" is our step with the default settings of torch and the C library. "original" uses our
setting for waiting threads, because it would be slower on busy cores without it, and the memory
settings of the C library.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from nectargan import cpu


def main() -> None:
    kind, path = sys.argv[1:]
    if kind != "defaults":
        cpu.prepare(memory=kind == "ours")
    step = make_step(kind, path)
    for _ in range(2):  # fills caches and allocates memory
        step()
    for _ in sys.stdin:
        step()
        print("done", flush=True)


def make_step(kind: str, path: str) -> Callable[[], object]:
    # Imported after `prepare`, because they import torch.
    from original_step import original_step
    from step_variants import Stopwatch, our_steps

    from nectargan.config.schema import Config
    from nectargan.trainers.pix2pix_trainer import Pix2pixTrainer

    config = Config.model_validate_json(Path(path).read_text(encoding="utf-8"))
    if kind == "original":
        return original_step(config)
    steps = our_steps(Pix2pixTrainer(config), Stopwatch(cuda=False))
    return lambda: next(steps)


if __name__ == "__main__":
    main()
