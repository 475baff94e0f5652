"""Sweeps in which Optuna chooses the values."""

from __future__ import annotations

import functools
import logging
import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from nectargan.credentials import public_address
from nectargan.errors import PRUNED, ConfigError, NectarGANError, RunError
from nectargan.loggers.mlflow.store import sqlite_uri
from nectargan.record.last_values import values_in_best_epoch
from nectargan.record.run_directory import RunDirectory
from nectargan.sweeps.axes import Axis
from nectargan.sweeps.grid import (
    CLAIMS,
    GridOutcome,
    GridPoint,
    Resolve,
    make_grid_point,
    run_grid_point,
)
from nectargan.sweeps.study_database import GRACE_SECONDS, connected, no_warnings, storage_errors
from nectargan.sweeps.suggestions import distribution_of, ends_of, suggest, value_text
from nectargan.sweeps.trial_owner import has_died, is_elsewhere, owned

_RETRY_SECONDS = (0.5, 1.5)
# A trial is repeated after its process has died, but not for ever: it may be what kills them.
_MOST_DEATHS = 3
_DEATHS, _PROCESS, _SKIPPED = "deaths", "process", "skipped"

log = logging.getLogger("nectargan")


class Trial(NamedTuple):
    """A trial of a study.

    Attributes:
        number: Number of the trial, from 0 in the order of their start.
        state: "COMPLETE", "PRUNED", "FAIL", "RUNNING" or "WAITING"; "SKIPPED" if another process
            was training a run with the same values.
        values: The values of the swept options as text, by dotted key.
        value: The best value of the metric; the last one of a run that was pruned, or that a
            pruner judges while it runs; else ``None``.
        directory: The run directory, if there is one. It may be on another machine.
        reason: Why it failed or was pruned; empty for a trial that was interrupted.
        measured: The values of all metrics; empty unless complete.
    """

    number: int
    state: str
    values: dict[str, str]
    value: float | None
    directory: RunDirectory | None
    reason: str
    measured: tuple[float, ...] = ()


class Search:
    """An Optuna study whose trials are runs.

    Any number of processes and machines can continue the same study at the same time.

    Args:
        axes: The swept options.
        resolve: Creates a config with some options replaced.
        metric: The metric to optimize, such as "val/ssim". The best value of a run counts. With
            several metrics, the values in the epoch with the best value of the first one count.
        storage: URL of the database of the study; by default ``optuna.db`` in the output directory.
        pruner: "median" or "hyperband" ends hopeless runs, by Optuna's `MedianPruner` or
            `HyperbandPruner`; only for a single metric.

    Attributes:
        corners: Grid points with both ends of each range and with each value, for `check_grid`.
        storage: The URL of the database.

    Raises:
        ConfigError: an axis cannot be searched.
    """

    def __init__(
        self,
        axes: Sequence[Axis],
        resolve: Resolve,
        metric: str | Sequence[str],
        storage: str | None = None,
        pruner: str | None = None,
    ) -> None:
        self._axes, self._resolve, self._pruner = axes, resolve, pruner
        self._metrics = (metric,) if isinstance(metric, str) else tuple(metric)
        self._metric = self._metrics[0]
        ends = {axis.key: ends_of(axis) for axis in axes}
        first = {key: items[0] for key, items in ends.items()}
        self._whole = {axis.key for axis in axes if self._is_whole(axis, first)}
        corners = [first, *({**first, key: i} for key, items in ends.items() for i in items[1:])]
        self.corners = [make_grid_point(axes, items, resolve) for items in corners]
        is_lower_better = self.corners[0].config.validation.is_lower_better
        self._are_lower_better = [is_lower_better(each) for each in self._metrics]
        self._is_lower_better = self._are_lower_better[0]
        self._is_own_storage = storage is None
        self.storage = storage or sqlite_uri(self.corners[0].output.resolve() / "optuna.db")
        self._study: Any = None

    @property
    def name(self) -> str:
        """Name of the study and of the parent run in MLflow."""
        return str(self.corners[0].config.logging.mlflow.group)

    def _is_whole(self, axis: Axis, first: Mapping[str, str]) -> bool:
        """Whether both ends of the range are whole and the option does not accept fractions."""
        if axis.range is None or not axis.range.is_whole:
            return False
        try:
            make_grid_point(self._axes, {**first, axis.key: repr(axis.range.low)}, self._resolve)
        except ConfigError:
            return True
        return False

    def open(self) -> None:
        """Creates the study, or loads the existing one with its name.

        Raises:
            RunError: Optuna is not installed, the database cannot be used, or it has a study with
                this name that searches other options or another metric.
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
                # Two processes that create the tables of a new database at once can fail.
                time.sleep(seconds)
        self._create_or_load()

    def _create_or_load(self) -> None:
        import optuna

        with storage_errors(self.storage), no_warnings():
            if self._is_own_storage:
                self.corners[0].output.mkdir(parents=True, exist_ok=True)
            self._study = optuna.create_study(
                storage=connected(self.storage, self._repeat),
                study_name=self.name,
                directions=[
                    "minimize" if is_lower else "maximize" for is_lower in self._are_lower_better
                ],
                pruner=self._make_pruner(),
                load_if_exists=True,
            )
            self._check_same_search()
            self._check_machines()

    def _check_same_search(self) -> None:
        from optuna.distributions import check_distribution_compatibility

        wanted_metrics = " and ".join(self._metrics)
        known = self._study.user_attrs.get("metric", wanted_metrics)
        conflict = f"Study '{self.name}' in '{public_address(self.storage)}' searches"
        if known != wanted_metrics:
            raise RunError(f"{conflict} for {known}; give another --group.")
        wanted = {axis.key: distribution_of(axis, axis.key in self._whole) for axis in self._axes}
        for trial in self._study.get_trials(deepcopy=False):
            for key, distribution in trial.distributions.items():
                try:
                    check_distribution_compatibility(distribution, wanted[key])
                except (KeyError, ValueError):
                    raise RunError(
                        f"{conflict} other values of {key}; give another --group."
                    ) from None
        self._study.set_user_attr("metric", wanted_metrics)

    def _make_pruner(self) -> Any:
        from optuna import pruners

        if self._pruner == "hyperband":
            epochs = self.corners[0].config.train.epochs
            return pruners.HyperbandPruner(min_resource=1, max_resource=epochs)
        return pruners.MedianPruner() if self._pruner == "median" else pruners.NopPruner()

    def run(
        self,
        trials: int,
        start: Callable[..., RunDirectory],
        announce: Callable[[int, GridPoint], None],
    ) -> Iterator[GridOutcome]:
        """Trains runs until the study has a number of trials, including those of other processes.

        Args:
            trials: The total number. Interrupted trials do not count; they are repeated.
            start: Trains a run, as `Start`. With a pruner it also gets ``judge``; see `Trainer`.
            announce: Called with the number and grid point of each trial before it starts.

        Yields:
            The outcome of each trial of this process.

        Raises:
            RunError: the database fails, or is an SQLite file that another machine uses.
        """
        from optuna import TrialPruned

        with owned(self.corners[0].output / CLAIMS) as process:
            failed = [math.nan] * len(self._metrics)  # as Optuna takes it
            while self._has_room(trials):
                outcomes: list[GridOutcome] = []

                def objective(
                    trial: Any, outcomes: list[GridOutcome] = outcomes
                ) -> float | Sequence[float]:
                    trial.set_user_attr(_PROCESS, process)
                    if not self._begin(trial, trials):
                        return failed
                    outcome, values = self._try(trial, start, announce)
                    outcomes.append(outcome)
                    if outcome.state == "PRUNED":
                        raise TrialPruned
                    return values

                self._study.sampler = self._sampler(self._count())
                with storage_errors(self.storage):
                    self._study.optimize(objective, n_trials=1)
                yield from outcomes

    def _has_room(self, trials: int) -> bool:
        """Whether the study needs another trial, after those of dead processes were given back."""
        from optuna.exceptions import UpdateFinishedTrialError
        from optuna.storages import fail_stale_trials
        from optuna.trial import TrialState

        with storage_errors(self.storage), no_warnings():
            fail_stale_trials(self._study)
            for trial in self._running():
                # The processes of this machine are not waited for until their heartbeat is missed.
                if has_died(trial.user_attrs.get(_PROCESS)):
                    try:
                        self._study.tell(trial.number, state=TrialState.FAIL)
                    except (ValueError, UpdateFinishedTrialError):
                        continue  # another process was faster
                    self._repeat(trial)
        return self._count() < trials

    def _repeat(self, trial: Any) -> None:
        """Puts the values of a trial whose process has died into the queue of the study."""
        deaths = trial.user_attrs.get(_DEATHS, 0) + 1
        if deaths > _MOST_DEATHS:
            log.warning("Trial %d is given up: its process died %d times.", trial.number, deaths)
        else:
            self._study.enqueue_trial(trial.params, user_attrs={_DEATHS: deaths})

    def _begin(self, trial: Any, trials: int) -> bool:
        """Seeds the sampler for a trial that was just created.

        Returns:
            Whether the trial is needed: other processes may have begun enough at the same moment.

        Raises:
            RunError: the database is an SQLite file that another machine uses.
        """
        place = self._count(before=trial.number)
        is_needed = False
        try:
            self._check_machines(before=trial.number)
            is_needed = place < trials
        finally:
            attributes = self._study.get_trials(deepcopy=False)[trial.number].system_attrs
            if not is_needed and "fixed_params" in attributes:  # it was in the queue
                self._study.enqueue_trial(attributes["fixed_params"])
        # By then, another process may have made a sampler with the same seed.
        self._study.sampler = self._sampler(place)
        return is_needed

    def _sampler(self, place: int) -> Any:
        """The sampler of the trial at a place among those that count.

        Its seed depends on the place alone. So interruptions do not change the results, and
        processes that share a study do not begin with the same values. Runs of other processes
        count as bad ones until they end (constant liar), so that their values are not tried twice.
        """
        from optuna.samplers import TPESampler

        seed = np.random.SeedSequence((self.corners[0].config.common.seed, place))
        with no_warnings():
            return TPESampler(seed=int(seed.generate_state(1)[0]), constant_liar=True)

    def _running(self) -> list[Any]:
        from optuna.trial import TrialState

        return list(self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)))

    def _check_machines(self, before: float = math.inf) -> None:
        """Raises RunError if a process of another machine uses the same SQLite file.

        Args:
            before: Of two machines that begin at once, the one with the earlier trial goes on.
        """
        if not self.storage.startswith("sqlite"):
            return
        for trial in self._running():
            owner = trial.user_attrs.get(_PROCESS)
            if trial.number < before and is_elsewhere(owner):
                raise RunError(
                    f"Study '{self.name}' in '{public_address(self.storage)}' is in use on host "
                    f"'{owner['host']}'. SQLite's locks do not hold between machines, and the "
                    "database would be damaged; for several machines, give each the same "
                    "--sweep-storage of a server, such as postgresql://HOST/DATABASE or "
                    f"mysql+pymysql://HOST/DATABASE. (If that process has died, wait "
                    f"{GRACE_SECONDS // 60} minutes.)"
                )

    def _try(
        self,
        trial: Any,
        start: Callable[..., RunDirectory],
        announce: Callable[[int, GridPoint], None],
    ) -> tuple[GridOutcome, Sequence[float]]:
        """Runs a trial; returns its outcome and the values of the metrics. Optuna treats the value
        NaN as a failure."""
        import optuna

        items = {axis.key: suggest(trial, axis, axis.key in self._whole) for axis in self._axes}
        try:
            point = make_grid_point(self._axes, items, self._resolve)
        except NectarGANError as error:
            point = self.corners[0]._replace(values=items)
            outcome = GridOutcome(point, "FAILED", reason=str(error))
        else:
            announce(trial.number, point)
            if self._pruner is not None:
                start = functools.partial(start, judge=functools.partial(self._judge, trial))
            try:
                outcome = run_grid_point(point, start)
            except (KeyboardInterrupt, SystemExit) as stop:
                # The next free process repeats the trial, and resumes the run from a checkpoint.
                self._study.enqueue_trial(trial.params)
                if isinstance(stop, SystemExit):
                    # Optuna itself only handles KeyboardInterrupt.
                    self._study.tell(trial, state=optuna.trial.TrialState.FAIL)
                raise
        if outcome.state == "RUNNING":
            outcome = outcome._replace(reason="another process trains a run with the same values")
            trial.set_user_attr(_SKIPPED, True)
        best = None
        if outcome.directory is not None:
            trial.set_user_attr("run", str(outcome.directory))
            if outcome.state == "FINISHED":
                best = values_in_best_epoch(outcome.directory, self._metrics, self._is_lower_better)
                if best is None:
                    told = " and ".join(self._metrics)
                    outcome = outcome._replace(state="FAILED", reason=f"{told} was not recorded")
        if best is None:
            trial.set_user_attr("reason", outcome.reason)
        return outcome, best or [math.nan] * len(self._metrics)

    def _judge(self, trial: Any, epoch: int, metrics: Mapping[str, float]) -> str:
        """Reports an epoch of a trial; returns why the trial is hopeless, or nothing."""
        value = metrics.get(self._metric, math.nan)
        if not math.isfinite(value):
            return ""
        trial.report(value, epoch)
        if not trial.should_prune():
            return ""
        told = f"{PRUNED}{self._pruner} in epoch {epoch}: {self._metric} is {value:.4g}"
        if self._pruner != "median":
            return told
        others = [
            other.intermediate_values[epoch]
            for other in self._study.get_trials(deepcopy=False)
            if other.state.name == "COMPLETE" and epoch in other.intermediate_values
        ]
        return f"{told}, and the median of {len(others)} runs is {statistics.median(others):.4g}"

    def trials(self) -> list[Trial]:
        """All trials of the study so far, from all processes, sorted by number."""
        with storage_errors(self.storage):
            found = self._study.get_trials(deepcopy=False)
        return [
            Trial(
                trial.number,
                "SKIPPED" if _SKIPPED in trial.user_attrs else trial.state.name,
                {key: value_text(value) for key, value in trial.params.items()},
                _value_so_far(trial),
                RunDirectory(trial.user_attrs["run"]) if "run" in trial.user_attrs else None,
                str(trial.user_attrs.get("reason", "")),
                tuple(trial.values or ()),
            )
            for trial in found
        ]

    def _count(self, before: float = math.inf) -> int:
        """How many trials count; those in the queue only if another trial comes after them."""
        counted = {"COMPLETE", "PRUNED", "RUNNING"} | ({"WAITING"} if before < math.inf else set())
        return sum(
            trial.number < before and (trial.state in counted or bool(trial.reason))
            for trial in self.trials()
        )


def _value_so_far(trial: Any) -> float | None:
    """The first value of a trial of Optuna, or what was last reported of it."""
    if trial.values:
        return float(trial.values[0])
    last = trial.last_step
    return None if last is None else float(trial.intermediate_values[last])
