"""``python -m nectargan.train``: the module of ``nectargan-train``, as torchrun starts it."""

from __future__ import annotations

from nectargan.cli.train import train

if __name__ == "__main__":
    train()
