from __future__ import annotations

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from nectargan.errors import RunError
from nectargan.record import lock
from nectargan.record.output_directory import create_run_directory, not_a_run
from nectargan.record.run_directory import RunDirectory
from nectargan.runs.run_list import summarize_runs


def test_versions_count_up_from_one(tmp_path: Path) -> None:
    made = [create_run_directory(tmp_path / "out", "faces").name for _ in range(3)]
    assert made == ["faces_v1", "faces_v2", "faces_v3"]


def test_version_ten_comes_after_version_nine(tmp_path: Path) -> None:
    # As text, "v10" sorts before "v9": the original then made v10 again and again.
    for version in range(1, 11):
        (tmp_path / f"faces_v{version}").mkdir()
    assert create_run_directory(tmp_path, "faces").name == "faces_v11"


def test_other_names_do_not_count(tmp_path: Path) -> None:
    for name in ("faces_v7_backup", "old_faces_v9", "faces_vx", "facesXv12", "f.ces_v30"):
        (tmp_path / name).mkdir()
    assert create_run_directory(tmp_path, "faces").name == "faces_v1"
    assert create_run_directory(tmp_path, "f.ces").name == "f.ces_v31"


def test_a_file_of_that_name_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "faces_v1").write_text("mine")
    assert create_run_directory(tmp_path, "faces").name == "faces_v2"
    assert (tmp_path / "faces_v1").read_text() == "mine"


def test_lowest_version(tmp_path: Path) -> None:
    assert create_run_directory(tmp_path, "faces", first=5).name == "faces_v5"
    assert create_run_directory(tmp_path, "faces", first=2).name == "faces_v6"


def test_runs_started_together_get_a_directory_each(tmp_path: Path) -> None:
    with ThreadPoolExecutor(16) as pool:
        made = list(pool.map(lambda _: create_run_directory(tmp_path, "faces"), range(64)))
    assert sorted(int(path.name[7:]) for path in made) == list(range(1, 65))


def test_without_increment_an_existing_version_is_refused(tmp_path: Path) -> None:
    create_run_directory(tmp_path, "faces", first=3, auto_increment=False)
    with pytest.raises(RunError, match=r"faces_v3' exists"):
        create_run_directory(tmp_path, "faces", first=3, auto_increment=False)


def test_output_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    with pytest.raises(RunError, match="No run can be created in"):
        create_run_directory(tmp_path / "out", "faces")


def test_a_glance_at_a_lock_keeps_nobody_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`nectargan runs`, or another ``--resume auto``, has the lock for a moment."""
    monkeypatch.setattr(lock, "_TRIES", 1500)  # half a minute, for a busy machine
    entered = threading.Event()

    def glance() -> None:
        with RunDirectory(tmp_path).lock():
            entered.set()
            time.sleep(0.05)

    thread = threading.Thread(target=glance)
    thread.start()
    assert entered.wait(30)
    with RunDirectory(tmp_path).lock():
        thread.join()


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such pipes")
def test_a_death_that_cannot_be_noted(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "status.json")
    with pytest.raises(
        RunError, match=r"status\.json' cannot be written: it is not a regular file"
    ):
        RunDirectory(tmp_path).end_status()


def test_what_was_meant_by_a_path_that_names_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    runs = Path("runs")
    for name in ("fronts_v1", "fronts_v2"):
        (runs / name).mkdir(parents=True)
        RunDirectory(runs / name).write_status("FINISHED")
    (runs / "fronts_v1" / "losses.csv").touch()
    (runs / "notes").mkdir()
    told = {
        "runs": "is not a run directory, but contains 2 runs, such as 'runs/fronts_v1'.",
        "runs/fronts_v1/losses.csv": "is a file, not a run directory; 'runs/fronts_v1' is one.",
        "runs/front_v1": "is not a run directory: it does not exist. "
        "Did you mean 'runs/fronts_v1'?",
        "fronts_v2": "is not a run directory: it does not exist. Did you mean 'runs/fronts_v2'?",
        "elsewhere": "is not a run directory: it does not exist.",
        "runs/notes": "is not a run directory: it has no config.json.",
    }
    for path, sentence in told.items():
        error = not_a_run(RunDirectory(path), "config.json")
        assert str(error).replace("\\", "/") == f"'{path}' {sentence}"


def test_a_run_directory_is_accepted_where_a_path_is(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "r")
    run.path.mkdir()
    run.losses.write_text("step")
    assert Path(run) == tmp_path / "r"
    assert os.listdir(run) == ["losses.csv"]
    assert run / "losses.csv" == run.losses
    assert {run, RunDirectory(run), tmp_path / "r"} == {run}
    assert tmp_path / "r" == run
    assert run != RunDirectory(tmp_path)
    assert run != str(tmp_path / "r")
    assert f"'{run}'" == f"'{tmp_path / 'r'}'"


def test_the_parent_of_a_run_in_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "r").mkdir()
    monkeypatch.chdir(tmp_path / "r")
    assert RunDirectory(".").parent == tmp_path.resolve()


def test_the_files_of_a_run_of_an_earlier_version_are_known() -> None:
    run = RunDirectory(Path(__file__).parents[1] / "data" / "stopped_run")
    known = {value for name in dir(run) if isinstance(value := getattr(run, name), Path)}
    assert {run / name for name in os.listdir(run)} <= known | {run / "status.json"}
    assert [path.name for path in run.list_checkpoints()] == sorted(
        path.name for path in run.checkpoints.glob("epoch_*")
    )


def test_checkpoints_are_in_the_order_of_training(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    run.checkpoints.mkdir()
    order = [(9, 95), (9, 99), (9, None), (10, None), (10000, 123456789), (10000, None)]
    paths = [run.checkpoint(epoch, step) for epoch, step in order]
    for path in [*reversed(paths), run.last_checkpoint, run.best_checkpoint]:
        path.touch()
    (run.checkpoints / "epoch_mine.pt").touch()
    found = run.list_checkpoints()
    assert found == paths
    assert run.list_checkpoints(after=found[2]) == found[3:]
    assert run.list_checkpoints(after=run.checkpoint(10**6)) == []


def test_a_run_whose_process_ended_unexpectedly_is_marked_as_killed(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    assert run.current_status() == ("", "")
    run.write_status("RUNNING")
    with run.lock():
        assert run.current_status() == ("RUNNING", "")
    assert run.current_status() == ("KILLED", "the process ended unexpectedly")
    assert run.read_status() == ("KILLED", "the process ended unexpectedly")


@pytest.mark.skipif(os.name == "nt", reason="There is no limit of the size of files")
def test_a_killed_run_is_shown_as_killed_where_its_status_cannot_be_written(tmp_path: Path) -> None:
    import resource

    run = RunDirectory(tmp_path)
    run.write_status("RUNNING")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))  # as on a full disk
    try:
        with run.lock():
            with pytest.raises(RunError, match="cannot be written: File too large"):
                run.end_status()
            assert run.current_status() == ("RUNNING", "")
        assert run.current_status() == ("KILLED", "the process ended unexpectedly")
        assert summarize_runs(tmp_path)[0].status == "KILLED"
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert run.read_status() == ("RUNNING", "")


def test_a_killed_run_is_shown_as_killed_where_its_lock_cannot_be_written(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    run.write_status("RUNNING")
    (tmp_path / ".lock").mkdir()
    with pytest.raises(RunError, match="cannot be written"):
        run.lock().__enter__()
    assert run.current_status() == ("KILLED", "the process ended unexpectedly")
    assert run.read_status() == ("RUNNING", "")
