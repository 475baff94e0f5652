"""A sweep in which Optuna chooses the values."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np

from nectargan.analysis.last_values import best_of
from nectargan.credentials import public_address, without_credentials
from nectargan.errors import ConfigError, NectarGANError, RunError
from nectargan.loggers.mlflow.store import sqlite_uri
from nectargan.record.run_directory import RunDirectory
from nectargan.sweeps.axes import Axis
from nectargan.sweeps.grid import (
    GridOutcome,
    GridPoint,
    Resolve,
    Start,
    make_grid_point,
    run_grid_point,
)
from nectargan.wording import one_line

# Of a process that died, after a while, the trials are known to be no longer at work.
_HEARTBEAT_SECONDS = 60
_GRACE_SECONDS = 180
_RETRY_SECONDS = (0.5, 1.5)


class Trial(NamedTuple):
    """A trial of a study.

    Attributes:
        number: From 0, in the order of their beginning.
        state: "COMPLETE", "FAIL", "RUNNING" or "WAITING".
        values: What was tried, as text, by dotted key.
        value: The best value of the metric; ``None`` unless complete.
        directory: The run directory, if there is one, as the machine that has it calls it.
        reason: Why it failed by itself; empty for one that was interrupted.
    """

    number: int
    state: str
    values: dict[str, str]
    value: float | None
    directory: RunDirectory | None
    reason: str


class Search:
    """A study of Optuna whose trials are runs.

    Any number of processes and machines may go on with the same study at once.

    Args:
        axes: What varies.
        resolve: Makes a config with some options replaced.
        metric: What to improve, such as "val/ssim": the best value that a run reaches counts.
        storage: URL of the study's database; by default ``optuna.db`` in the output directory.

    Attributes:
        corners: Cells with the ends of each range and with each value, for `check_grid`.
        storage: The URL.

    Raises:
        ConfigError: an axis cannot be searched.
    """

    def __init__(
        self, axes: Sequence[Axis], resolve: Resolve, metric: str, storage: str | None = None
    ) -> None:
        self._axes, self._resolve, self._metric = axes, resolve, metric
        ends = {axis.key: _ends(axis) for axis in axes}
        first = {key: items[0] for key, items in ends.items()}
        self._whole = {axis.key for axis in axes if self._is_whole(axis, first)}
        corners = [first, *({**first, key: i} for key, items in ends.items() for i in items[1:])]
        self.corners = [make_grid_point(axes, items, resolve) for items in corners]
        self._is_lower_better = self.corners[0].config.validation.is_lower_better(metric)
        self._is_own_storage = storage is None
        self.storage = storage or sqlite_uri(self.corners[0].output.resolve() / "optuna.db")
        self._study: Any = None

    @property
    def name(self) -> str:
        """The study's name, which is that of the parent run."""
        return str(self.corners[0].config.logging.mlflow.group)

    def _is_whole(self, axis: Axis, first: Mapping[str, str]) -> bool:
        """Whether the range has whole ends and its option refuses a fraction."""
        if axis.range is None or not axis.range.is_whole:
            return False
        try:
            make_grid_point(self._axes, {**first, axis.key: repr(axis.range.low)}, self._resolve)
        except ConfigError:
            return True
        return False

    def open(self) -> None:
        """Makes the study, or goes on with the one of this name.

        Raises:
            RunError: Optuna is not installed, the database cannot be used, or has a study of this
                name that searches something else.
        """
        try:
            import optuna
        except ImportError:
            raise RunError(
                "--sweep-search needs Optuna, which is not installed: pip install "
                "'nectargan[sweep]'."
            ) from None
        optuna.logging.set_verbosity(optuna.logging.CRITICAL)
        for seconds in _RETRY_SECONDS:
            try:
                self._create_or_load()
                return
            except RunError:
                # Two processes that make the tables of a new database get in each other's way.
                time.sleep(seconds)
        self._create_or_load()

    def _create_or_load(self) -> None:
        import optuna

        with self._storage_errors(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # heartbeats are marked as experimental
            if self._is_own_storage:
                self.corners[0].output.mkdir(parents=True, exist_ok=True)
            waits = {"connect_args": {"timeout": 60}} if self.storage.startswith("sqlite") else None
            self._study = optuna.create_study(
                storage=optuna.storages.RDBStorage(
                    self.storage,
                    engine_kwargs=waits,
                    heartbeat_interval=_HEARTBEAT_SECONDS,
                    grace_period=_GRACE_SECONDS,
                ),
                study_name=self.name,
                direction="minimize" if self._is_lower_better else "maximize",
                load_if_exists=True,
            )
            self._check_that_it_is_the_same()

    def _check_that_it_is_the_same(self) -> None:
        from optuna.distributions import check_distribution_compatibility

        known = self._study.user_attrs.get("metric", self._metric)
        another = f"Study '{self.name}' in '{public_address(self.storage)}' searches"
        if known != self._metric:
            raise RunError(f"{another} for {known}; name another --group.")
        wanted = {axis.key: self._distribution(axis) for axis in self._axes}
        for trial in self._study.get_trials(deepcopy=False):
            for key, distribution in trial.distributions.items():
                try:
                    check_distribution_compatibility(distribution, wanted[key])
                except (KeyError, ValueError):
                    raise RunError(
                        f"{another} other values of {key}; name another --group."
                    ) from None
        self._study.set_user_attr("metric", self._metric)

    def run(
        self, trials: int, start: Start, announce: Callable[[int, GridPoint], None]
    ) -> Iterator[GridOutcome]:
        """Trains until the study has so many trials, those of other processes included.

        Args:
            trials: How many in all. One that was interrupted does not count; it comes again.
            start: Trains a run.
            announce: Called with number and grid point of each trial before it starts.

        Yields:
            How each trial of this process ended.

        Raises:
            RunError: the database fails.
        """
        while self._count() < trials:
            outcomes: list[GridOutcome] = []

            def objective(trial: Any, outcomes: list[GridOutcome] = outcomes) -> float:
                outcome, value = self._try(trial, start, announce)
                outcomes.append(outcome)
                return value

            with self._storage_errors():
                self._study.optimize(objective, n_trials=1)
            yield from outcomes

    def _try(
        self, trial: Any, start: Start, announce: Callable[[int, GridPoint], None]
    ) -> tuple[GridOutcome, float]:
        """A trial's outcome and its value; NaN, which Optuna takes for a failure, without one."""
        import optuna

        # By number: a study comes out the same however often it was interrupted, and processes
        # that share it do not all begin with the same guesses.
        seed = np.random.SeedSequence((self.corners[0].config.common.seed, trial.number))
        self._study.sampler = optuna.samplers.TPESampler(seed=int(seed.generate_state(1)[0]))
        items = {axis.key: self._suggest(trial, axis) for axis in self._axes}
        try:
            point = make_grid_point(self._axes, items, self._resolve)
        except NectarGANError as error:
            point = self.corners[0]._replace(values=items)
            outcome = GridOutcome(point, "FAILED", reason=str(error))
        else:
            announce(trial.number, point)
            try:
                outcome = run_grid_point(point, start)
            except (KeyboardInterrupt, SystemExit) as stop:
                # It comes again, in whichever process is next, and goes on where there is a
                # checkpoint.
                self._study.enqueue_trial(trial.params)
                if isinstance(stop, SystemExit):
                    # Optuna itself sees to Ctrl-C only.
                    self._study.tell(trial, state=optuna.trial.TrialState.FAIL)
                raise
        best = None
        if outcome.directory is not None:
            trial.set_user_attr("run", str(outcome.directory))
            if outcome.state == "FINISHED":
                best = best_of(outcome.directory, self._metric, self._is_lower_better)
                if best is None:
                    outcome = outcome._replace(
                        state="FAILED", reason=f"no {self._metric} on record"
                    )
        if best is None:
            trial.set_user_attr("reason", outcome.reason)
        return outcome, best[0] if best else math.nan

    def trials(self) -> list[Trial]:
        """All trials of the study so far, of whatever process, in order of their numbers."""
        with self._storage_errors():
            found = self._study.get_trials(deepcopy=False)
        return [
            Trial(
                trial.number,
                trial.state.name,
                {key: _value_text(value) for key, value in trial.params.items()},
                trial.value,
                RunDirectory(trial.user_attrs["run"]) if "run" in trial.user_attrs else None,
                str(trial.user_attrs.get("reason", "")),
            )
            for trial in found
        ]

    def _count(self) -> int:
        return sum(t.state in ("COMPLETE", "RUNNING") or bool(t.reason) for t in self.trials())

    def _suggest(self, trial: Any, axis: Axis) -> str:
        if axis.range is None:
            return str(trial.suggest_categorical(axis.key, axis.items))
        low, high, log = axis.range
        if axis.key in self._whole:
            return _value_text(trial.suggest_int(axis.key, int(low), int(high), log=log))
        return _value_text(trial.suggest_float(axis.key, low, high, log=log))

    def _distribution(self, axis: Axis) -> Any:
        from optuna import distributions

        if axis.range is None:
            return distributions.CategoricalDistribution(axis.items)
        low, high, log = axis.range
        if axis.key in self._whole:
            return distributions.IntDistribution(int(low), int(high), log=log)
        return distributions.FloatDistribution(low, high, log=log)

    @contextmanager
    def _storage_errors(self) -> Iterator[None]:
        """Errors of the database as one sentence."""
        from optuna.exceptions import StorageInternalError
        from sqlalchemy.exc import SQLAlchemyError

        try:
            yield
        except (StorageInternalError, SQLAlchemyError, ImportError, OSError) as error:
            uri = public_address(self.storage)
            reason = without_credentials(one_line(error))[:200].rstrip(".")
            if "://" not in self.storage:
                reason = "it must be an address such as sqlite:///optuna.db"
            raise RunError(f"Optuna's storage '{uri}' cannot be used: {reason}.") from None


def _ends(axis: Axis) -> list[str]:
    """The values to try out first; whole ends are written as whole numbers, which all take."""
    if axis.range is None:
        return axis.items
    ends = (axis.range.low, axis.range.high)
    return [_value_text(int(end) if axis.range.is_whole else end) for end in ends]


def _value_text(value: object) -> str:
    """A suggested value as it would be written: exact, and JSON for numbers."""
    return value if isinstance(value, str) else repr(value)
