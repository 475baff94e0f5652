"""`Request`: what somebody asks for, merged with a config, or with the checkpoint of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nectargan.config.config_manager import ConfigManager, Override
from nectargan.config.schema import Config
from nectargan.errors import RunError

if TYPE_CHECKING:
    from nectargan.runs.resume import Resumption


@dataclass(frozen=True)
class Request:
    """A config, and what goes before it.

    Attributes:
        config: File or name of a config; ``None`` for the defaults, or that of a resumed run.
        overrides: Options that replace those of the config.
        flags: What was typed for an option in place of ``--set``, by its dotted key.
        epochs: Length of the run.
    """

    config: str | None = None
    overrides: Sequence[Override] = ()
    flags: Mapping[str, str] = field(default_factory=dict)
    epochs: int | None = None

    def resolve(
        self, source: str | Mapping[str, Any] | None = None, swept: Sequence[Override] = ()
    ) -> Config:
        """The config of a run.

        Args:
            source: Taken if the request names no config.
            swept: Further overrides, which go before all others.

        Raises:
            ConfigError: it cannot be read or used.
        """
        config = source if self.config is None else self.config
        manager = ConfigManager(config, [*self.overrides, *swept], self.flags)
        if self.epochs is not None:
            manager.set_epochs(self.epochs)
        return manager.data

    def resume(self, place: str, trust: bool = False) -> tuple[Config, Resumption | None]:
        """The config of a run to go on with, and where it goes on.

        Args:
            place: A run directory, a checkpoint in one, or "auto" for the newest run of the
                experiment that is not finished; if there is none, a new one is started.
            trust: Import whatever the run's own config names.

        Raises:
            NectarGANError: there is no such run, it cannot be resumed, or not under this config;
                see `resumption_of` and `check_trust`.
        """
        # With torch, for which whoever only mistyped an option need not wait.
        from nectargan.analysis.sources import one_run
        from nectargan.record.run_directory import RunDirectory
        from nectargan.runs.checkpoint import load_checkpoint, load_last
        from nectargan.runs.resume import find_unfinished, resumption_of, run_directory_of
        from nectargan.runs.trust import check_trust

        if place == "auto":
            config = self.resolve()
            output, experiment = config.common.output_directory, config.common.experiment_name
            found = find_unfinished(Path(output), experiment)
            if found is None:
                return config, None
            return config, resumption_of(found, load_last(found), config)
        path = one_run(place).path
        if not path.exists():
            raise RunError(
                f"--resume '{place}' is neither a run directory, nor a checkpoint in one, nor "
                "'auto'."
            )
        file = None if path.is_dir() else path
        directory = RunDirectory(path) if file is None else run_directory_of(file)
        checkpoint = load_last(directory) if file is None else load_checkpoint(file)
        if self.config is None and not trust:
            # Resolved, for a config may be spelled in more than one way.
            read = ConfigManager(checkpoint["config"]).data
            check_trust(directory, read.model_dump(mode="json"))
        config = self.resolve(checkpoint["config"])
        return config, resumption_of(directory, checkpoint, config, file)
