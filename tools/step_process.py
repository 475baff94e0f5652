"""Makes a training step in a process of its own for each line of its input.

    python tools/step_process.py original|defaults|ours CONFIG

"original" is the step of v0.2.3. "ours" is set up as ``nectargan-train`` does it; "defaults" is the
same step with the settings that torch and the C library have of themselves. The original gets our
waiting of threads, so that busy cores do not make it look slower than it is, and the C library's
memory.
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
    for _ in range(2):  # fills caches, finds places in memory
        step()
    for _ in sys.stdin:
        step()
        print("done", flush=True)


def make_step(kind: str, path: str) -> Callable[[], object]:
    # Not before `prepare`.
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
