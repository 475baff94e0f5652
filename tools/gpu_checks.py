"""Checks everything that needs a GPU, in less than ten minutes.

    python tools/gpu_checks.py --json gpu_checks.json  # as `make gpu` does
    python tools/gpu_checks.py --only fp16
    python tools/gpu_checks.py --device cpu --small    # rehearses the tool where there is no GPU

Needs torch, numpy, pillow, pyyaml, psutil, pydantic, kornia, rich and click; and pytest, hypothesis
and pandas for the tests. Each group runs in a process of its own, which is ended at its limit; a
failure does not stop the others. Results are written after each group, for `performance_page`.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import click
import torch
from benchmarking import machine

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # the package need not be installed

from gpu_comparing import LeftOutError, Place  # noqa: E402
from gpu_trials import TRIALS  # noqa: E402

PASSED, FAILED, LEFT_OUT = "passed", "failed", "left out"
LEFT_OUT_CODE = 77  # none of pytest's
# Less is not enough to start Python and CUDA.
LEAST_SECONDS = 10.0


class Check(NamedTuple):
    """A group of checks.

    Attributes:
        name: What is tried.
        command: Arguments for Python.
        limit: Seconds that it may take at most.
        needs: Packages without which it is left out.
        figures: Whether the command takes ``--json FILE`` for rows of figures.
    """

    name: str
    command: list[str]
    limit: float
    needs: tuple[str, ...] = ()
    figures: bool = False


@dataclass
class Result:
    """The result of a group.

    Attributes:
        name: Its name.
        status: "passed", "failed" or "left out".
        seconds: How long it took.
        note: What it found, or why it failed or was left out.
    """

    name: str
    status: str
    seconds: float
    note: str


def checks(device: torch.device, small: bool) -> list[Check]:
    """All groups, the most important first."""
    at = ["--device", str(device)]
    bench = [str(ROOT / "tools" / "bench_train.py"), *at]
    trial = [__file__, *at]
    if small:
        bench += ["--quick", "--size", "64"]
        trial += ["--small"]
    steps = [*bench, "--group", "bf16" if device.type == "cuda" else "fp32"]
    few, many = ["--batch", "1", "--seconds", "40"], ["--batch", "4", "--batch", "16"]
    limits = {"torch.compile and the graph": 120.0}
    return [
        tests_of("dataset", "losses", "models", "record", limit=60.0),
        tests_of("trainers", limit=120.0),
        tests_of("inference", limit=90.0),
        *(Check(n, [*trial, "--trial", n], limits.get(n, 60.0)) for n in TRIALS),
        Check("no wait within a window", [*bench, "--trace", os.devnull], 60.0),
        Check("steps of batch 1", [*steps, *few], 120.0, figures=True),
        Check("steps of batch 4 and 16", [*steps, *many, "--seconds", "25"], 90.0, figures=True),
        Check("200 epochs, full record", [*bench, "--group", "full"], 240.0, figures=True),
    ]


def tests_of(*folders: str, limit: float) -> Check:
    """The files with tests marked ``gpu``; other files may import missing packages."""
    files = [path for f in folders for path in sorted((ROOT / "tests" / f).glob("test_*.py"))]
    mine = [str(p) for p in files if "@pytest.mark.gpu" in p.read_text(encoding="utf-8")]
    command = ["-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", *mine]
    return Check(
        f"tests of {', '.join(folders)}", command, limit, ("pytest", "hypothesis", "pandas")
    )


def run(check: Check, seconds: float, scratch: Path) -> tuple[Result, dict[str, Any]]:
    """Runs a group with a time limit; returns its result and its measured rows."""
    missing = [name for name in check.needs if find_spec(name) is None]
    if missing or seconds < LEAST_SECONDS:
        why = f"without {' and '.join(missing)}" if missing else "no time was left"
        return Result(check.name, LEFT_OUT, 0.0, why), {}
    path = Path(scratch, "figures.json")
    path.unlink(missing_ok=True)
    command = [sys.executable, *check.command]
    if check.figures:
        command += ["--json", str(path)]
    if "full" in check.command:
        # An interrupted run has its record to complete.
        command += ["--seconds", str(round(seconds - min(40.0, seconds / 2)))]
    began = time.perf_counter()
    code, output = in_time(command, seconds)
    result = judged(check.name, code, output, time.perf_counter() - began)
    if result.status == FAILED:
        click.echo(output)
    return result, json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def in_time(command: list[str], seconds: float) -> tuple[int | None, str]:
    """Runs a command; returns its output and its exit code, ``None`` after a timeout."""
    known = [os.environ["PYTHONPATH"]] if "PYTHONPATH" in os.environ else []
    paths = [str(ROOT), str(ROOT / "tools"), *known]
    child = subprocess.Popen(  # noqa: S603
        command,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1"},
        encoding="utf-8",
        errors="replace",
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        output, _ = child.communicate(timeout=seconds)
        return child.returncode, output
    except subprocess.TimeoutExpired:
        end(child)
        return None, child.communicate()[0]
    except BaseException:
        end(child)
        raise


def end(child: subprocess.Popen[str]) -> None:
    """Ends a command and all processes that it started."""
    if hasattr(os, "killpg"):
        os.killpg(child.pid, signal.SIGKILL)
    else:
        child.kill()


def judged(name: str, code: int | None, output: str, seconds: float) -> Result:
    """The result of a group from the exit code and the last output of its command."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    named = [line for line in lines if line.startswith(("FAILED ", "ERROR "))]  # pytest's
    note = "; ".join([*named, *lines[-1:]])[:500]
    if code is None:
        return Result(name, FAILED, seconds, f"ended at its limit of {seconds:.0f} s; {note}")
    is_left_out = code == LEFT_OUT_CODE or (
        re.search(r"\d skipped", note) and not re.search(r"\d passed", note)
    )
    status = FAILED if code not in (0, LEFT_OUT_CODE) else LEFT_OUT if is_left_out else PASSED
    return Result(name, status, seconds, note)


def make_trial(name: str, device: torch.device, small: bool) -> int:
    """Runs one of `TRIALS` in this process; prints its result and returns the exit code."""
    with tempfile.TemporaryDirectory(prefix="gpu_checks_") as folder:
        try:
            click.echo(TRIALS[name](Place(device, Path(folder), small)))
        except LeftOutError as reason:
            click.echo(reason)
            return LEFT_OUT_CODE
        except Exception as error:
            traceback.print_exc()
            click.echo(f"{type(error).__name__}: {' '.join(str(error).split())}")
            return 1
    return 0


def run_all(wanted: list[Check], seconds: float, path: Path | None, patience: float = 1.0) -> bool:
    """Runs groups one after the other, each for at most ``patience`` times its limit; returns
    whether none has failed."""
    deadline = time.perf_counter() + seconds
    document: dict[str, Any] = {"machine": machine(), "rows": [], "left_out": [], "checks": []}
    for key, value in document["machine"].items():
        click.echo(f"{key}: {value}")
    with tempfile.TemporaryDirectory(prefix="gpu_checks_") as scratch:
        for check in wanted:
            left = deadline - time.perf_counter()
            result, figures = run(check, min(patience * check.limit, left), Path(scratch))
            document["checks"].append(asdict(result))
            document["rows"] += figures.get("rows", [])
            document["left_out"] += figures.get("left_out", [])
            click.echo(f"{result.status:8}  {result.seconds:5.0f} s  {result.name}: {result.note}")
            if path is not None:
                part = path.with_name(path.name + ".part")
                part.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
                part.replace(path)
    return all(each["status"] != FAILED for each in document["checks"])


@click.command()
@click.option("--json", "path", type=click.Path(path_type=Path), help="Write the results.")
@click.option("--only", multiple=True, metavar="TEXT", help="Only groups with this in their name.")
@click.option("--seconds", default=560.0, show_default=True, help="For all groups together.")
@click.option("--device", default="cuda", show_default=True, help="cuda, cuda:N or cpu.")
@click.option("--small", is_flag=True, help="Tiny networks and images: to try the tool itself.")
@click.option("--trial", type=click.Choice(list(TRIALS)), hidden=True)
def main(
    path: Path | None,
    only: tuple[str, ...],
    seconds: float,
    device: str,
    small: bool,
    trial: str | None,
) -> None:
    """Check everything that needs a GPU."""
    place = torch.device(device)
    if trial is not None:
        sys.exit(make_trial(trial, place, small))
    if place.type == "cuda" and not torch.cuda.is_available():
        raise click.UsageError("there is no CUDA device; --device cpu --small rehearses without")
    # What rehearses may be a slow machine, and shared.
    patience = 5.0 if small else 1.0
    wanted = [c for c in checks(place, small) if not only or any(t in c.name for t in only)]
    if not wanted:
        raise click.UsageError(f"no group has {' or '.join(only)} in its name")
    sys.exit(0 if run_all(wanted, seconds, path, patience) else 1)


if __name__ == "__main__":
    main()
