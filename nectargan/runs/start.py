"""`Request`: the options of a command, merged with a config or the checkpoint of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nectargan.config.config_manager import ConfigManager, Override
from nectargan.config.schema import Config
from nectargan.errors import RunError

if TYPE_CHECKING:
    from nectargan.record.run_directory import RunDirectory
    from nectargan.runs.resume import Resumption


@dataclass(frozen=True)
class Request:
    """A config and the options that override it.

    Attributes:
        config: File or name of a config; ``None`` for the defaults, or the config of a resumed run.
        overrides: Options that replace those of the config.
        flags: Command-line options that were used instead of ``--set``, by dotted key.
        epochs: Length of the run.
        base: The config to use if ``config`` is ``None``.
    """

    config: str | None = None
    overrides: Sequence[Override] = ()
    flags: Mapping[str, str] = field(default_factory=dict)
    epochs: int | None = None
    base: Mapping[str, Any] | None = None

    def resolve(self, swept: Sequence[Override] = ()) -> Config:
        """The resolved config of a run.

        Args:
            swept: Further overrides, which take precedence over all others.

        Raises:
            ConfigError: the config cannot be read, or is invalid.
        """
        config = self.base if self.config is None else self.config
        manager = ConfigManager(config, [*self.overrides, *swept], self.flags)
        if self.epochs is not None:
            manager.set_epochs(self.epochs)
        return manager.data

    def fork(self, place: str, trust: bool = False) -> Request:
        """The same request for a fork of another run.

        Args:
            place: A run directory, with or without ``@EPOCH``, or a checkpoint in one.
            trust: Whether to import the functions that the config of the parent names.

        Raises:
            NectarGANError: there is no such checkpoint, or its config is not trusted; see
                `find_checkpoint` and `check_trust`.
        """
        from nectargan.runs.fork import find_checkpoint
        from nectargan.runs.resume import is_same

        directory, file, content = find_checkpoint(place)
        overrides = [*self.overrides, ("train.fork_from", str(file))]
        if self.config is None:
            config = self._trusted(directory, content["config"], trust)
            if not is_same(Path(config.common.output_directory), directory.parent):
                # The parent was moved, or this is another working directory.
                overrides.insert(0, ("common.output_directory", str(directory.parent)))
        return replace(self, overrides=overrides, base=content["config"])

    def _trusted(self, directory: RunDirectory, content: Mapping[str, Any], trust: bool) -> Config:
        """The config of a run; raises RunError if it names code that is not trusted."""
        from nectargan.runs.trust import check_trust

        # Resolved, because the same config can be written in several ways.
        read = ConfigManager(content).data
        if not trust:
            check_trust(directory, read.model_dump(mode="json"))
        return read

    def resume(self, place: str, trust: bool = False) -> tuple[Config, Resumption | None]:
        """The config of a run to resume, and the state to resume from.

        Args:
            place: A run directory, a checkpoint in one, or "auto" for the newest run of the
                experiment that is not finished; if there is none, a new one is started.
            trust: Whether to import the functions that the config of the run names.

        Raises:
            NectarGANError: there is no such run, or it cannot be resumed with this config;
                see `resumption_of` and `check_trust`.
        """
        # Imported here, because torch is slow to import and a mistyped option is found first.
        from nectargan.analysis.sources import one_run
        from nectargan.record.run_directory import RunDirectory
        from nectargan.runs.checkpoint import load_checkpoint, load_last
        from nectargan.runs.resume import find_unfinished, resumption_of, run_directory_of

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
                f"--resume '{place}' is not a run directory, a checkpoint in one, or 'auto'."
            )
        file = None if path.is_dir() else path
        directory = RunDirectory(path) if file is None else run_directory_of(file)
        checkpoint = load_last(directory) if file is None else load_checkpoint(file)
        if self.config is None:
            self._trusted(directory, checkpoint["config"], trust)
        config = replace(self, base=checkpoint["config"]).resolve()
        return config, resumption_of(directory, checkpoint, config, file)
