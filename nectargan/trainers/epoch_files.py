"""`save_epoch_files`: the pictures and histograms that are made at the end of an epoch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nectargan.record.histogram_file import save_histograms
from nectargan.record.run_directory import EpochFileKind
from nectargan.trainers.histograms import training_histograms
from nectargan.trainers.loss_maps import loss_maps, save_loss_maps
from nectargan.trainers.validation import View, generate_examples, save_grid

if TYPE_CHECKING:
    from nectargan.trainers.pix2pix_trainer import Pix2pixTrainer


def save_epoch_files(trainer: Pix2pixTrainer, epoch: int) -> None:
    """Writes what is due into the run directory; of several processes, only the main one does.

    Args:
        trainer: The trainer, its generator in eval mode.
        epoch: The epoch that ends, from 1; 0 for the untrained networks.
    """
    if not trainer.world.is_main:
        return
    save, logging = trainer.config.save, trainer.config.logging
    rates: dict[EpochFileKind, int] = {
        "examples": save.example_save_rate if save.save_examples else 0,
        "loss_maps": logging.loss_map_every_n_epochs,
        "histograms": logging.histogram_every_n_epochs,
    }
    due = {
        kind: trainer.directory.epoch_file(kind, epoch, trainer.step)
        for kind, rate in rates.items()
        if rate and (epoch % rate == 0 or trainer.is_last_epoch)
    }
    if not due:
        return
    pairs, view = trainer.data.examples, View(**dict(save.view))
    generated = generate_examples(trainer.generate, pairs, trainer.device)
    if "examples" in due:
        save_grid(pairs, generated, due["examples"], view)
    if "loss_maps" in due:
        maps = loss_maps(trainer.losses.get_registered_losses(), pairs, generated)
        if maps:
            save_loss_maps(maps, pairs, generated, due["loss_maps"], view)
    if "histograms" in due:
        save_histograms(training_histograms(trainer.networks, generated), due["histograms"])
