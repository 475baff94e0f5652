"""The checks for a GPU run one after the other, whatever comes of each, and need few packages."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).parents[2]
TOOLS = ROOT / "tools"
# What `gpu_checks` says it needs does not include these.
BLOCKED = "mlflow tensorboard pyarrow matplotlib optuna playwright pynvml torchmetrics"


@pytest.fixture
def gpu_checks(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(TOOLS))
    import gpu_checks

    monkeypatch.setattr(gpu_checks, "LEAST_SECONDS", 0.5)
    return gpu_checks


def read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text())
    return content


def test_every_group_has_a_limit_under_four_minutes_and_a_place(gpu_checks: Any) -> None:
    found = gpu_checks.checks(torch.device("cuda"), small=False)
    assert [check.name for check in found] == [
        "tests of dataset, losses, models, record",
        "tests of trainers",
        "tests of inference",
        "default network, graph against eager",
        "interrupted and resumed with the graph",
        "a loss that waits for the device",
        "a loss that breaks the capture",
        "deterministic",
        "fp16",
        "VGG loss",
        "other networks",
        "gradients and shares",
        "forks",
        "R1 and accumulation",
        "16 bits, many channels, masks",
        "two processes on one GPU",
        "NCCL and DistributedDataParallel",
        "NCCL in the graph",
        "torch.compile and the graph",
        "no wait within a window",
        "steps of batch 1",
        "steps of batch 4 and 16",
        "200 epochs, full record",
    ]
    assert all(check.limit <= 240 for check in found)
    files = {Path(part) for check in found[:3] for part in check.command if "test_" in part}
    decorator = "\n@pytest.mark.gpu\n"
    assert files == {
        path for path in (ROOT / "tests").rglob("test_*.py") if decorator in path.read_text("utf-8")
    }


def test_a_failure_and_a_limit_stop_nothing_and_all_is_written_at_once(
    gpu_checks: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "results.json"
    row = {"name": "a row", "details": {}}
    figures = json.dumps({"rows": [row], "left_out": [{"name": "x", "reason": "y"}]})
    leave = "import pathlib, sys; pathlib.Path(sys.argv[-1]).write_text(sys.argv[1])"
    names = "import json, sys; print([c['name'] for c in json.load(open(sys.argv[1]))['checks']])"
    check = gpu_checks.Check
    wanted = [
        check("fails", ["-c", "print('FAILED a test'); print('1 failed'); exit(1)"], 60.0),
        check("has figures", ["-c", leave, figures], 60.0, figures=True),
        check("sleeps", ["-c", "print('began', flush=True); import time; time.sleep(600)"], 3.0),
        check("cannot", ["-c", f"print('why'); exit({gpu_checks.LEFT_OUT_CODE})"], 60.0),
        check("is skipped", ["-c", "print('3 skipped in 1 s')"], 60.0),
        check("lacks", ["-c", "exit(1)"], 60.0, needs=("no_such_package",)),
        check("reads", ["-c", names, str(path)], 60.0),
    ]
    assert not gpu_checks.run_all(wanted, 500.0, path)
    found = {each["name"]: (each["status"], each["note"]) for each in read(path)["checks"]}
    status, note = found.pop("sleeps")
    assert status == "failed"
    assert note.startswith("ended at its limit of ")
    assert found == {
        "fails": ("failed", "FAILED a test; 1 failed"),
        "has figures": ("passed", ""),
        "cannot": ("left out", "why"),
        "is skipped": ("left out", "3 skipped in 1 s"),
        "lacks": ("left out", "without no_such_package"),
        "reads": ("passed", str([each.name for each in wanted[:-1]])),
    }
    assert read(path)["rows"] == [row]
    assert read(path)["left_out"] == [{"name": "x", "reason": "y"}]
    assert "left out      0 s  lacks: without no_such_package" in capsys.readouterr().out


def test_a_group_without_time_is_left_out(gpu_checks: Any, tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    assert gpu_checks.run_all([gpu_checks.Check("late", ["-c", "exit(1)"], 60.0)], 0.0, path)
    (late,) = read(path)["checks"]
    assert (late["status"], late["note"]) == ("left out", "no time was left")


def test_results_find_their_place_on_the_page(gpu_checks: Any, tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    gpu_checks.run_all([gpu_checks.Check("one", ["-c", "print('a | b')"], 60.0)], 500.0, path)
    page = tmp_path / "page.md"
    page.write_text("# Performance\n")
    command = [sys.executable, str(TOOLS / "performance_page.py"), str(path), "--page", str(page)]
    subprocess.run(command, check=True)
    assert "| one | passed | " in page.read_text()
    assert r" | a \| b |" in page.read_text()


def test_trials_and_gpu_tests_need_few_packages() -> None:
    """A machine with a GPU may have no package index: the fewer wheels it takes the better."""
    code = f"""
import importlib, sys
from pathlib import Path
for name in {BLOCKED.split()}:
    sys.modules[name] = None
import gpu_checks
files = [f for c in gpu_checks.checks(gpu_checks.torch.device("cpu"), True)[:2] for f in c.command]
for file in files:
    if file.endswith(".py"):
        name = Path(file).relative_to(gpu_checks.ROOT).with_suffix("").parts
        importlib.import_module(".".join(name))
sys.modules["pandas"] = None  # which the tests need, and the trials do not
sys.exit(gpu_checks.make_trial(sys.argv[1], gpu_checks.torch.device("cpu"), True))
"""
    command = [sys.executable, "-c", code, "default network, graph against eager"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(TOOLS)])}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "fp32: losses differ by at most 0 %; val/ssim" in done.stdout
