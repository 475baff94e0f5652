"""The benchmarks run and report what they measured; how fast it was is not tested."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from nectargan import cpu
from nectargan.config.config_manager import ConfigManager

TOOLS = Path(__file__).parents[2] / "tools"


def run(tool: str, *arguments: str) -> str:
    command = [sys.executable, str(TOOLS / tool), *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def rows(path: Path) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in json.loads(path.read_text())["rows"]}


@pytest.fixture(scope="module")
def figures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both benchmarks, at their smallest."""
    folder = tmp_path_factory.mktemp("figures")
    size = ["--quick", "--size", "64", "--batch", "2", "--rounds", "2"]
    run("bench_train.py", *size, "--device", "cpu", "--json", str(folder / "train.json"))
    few = ["--rows", "40000", "--rounds", "3", "--steps", "20"]
    run("bench_logging.py", *few, "--json", str(folder / "logging.json"))
    return folder


def test_the_steps_are_compared_with_a_plain_loop_and_with_each_other(figures: Path) -> None:
    found = rows(figures / "train.json")
    at = "batch 2, fp32, eager: "
    steps = {name: row for name, row in found.items() if name.startswith(at)}
    steps = {name: row for name, row in steps.items() if row["unit"] == "ms a step"}
    assert {name.removeprefix(at): row["baseline"] for name, row in steps.items()} == {
        "plain reference loop": None,
        "our step, no hooks": at + "plain reference loop",
        "with hooks and CSV": at + "our step, no hooks",
        "with CSV and gradients": at + "with hooks and CSV",
        "with all sinks": at + "our step, no hooks",
    }
    for row in steps.values():
        assert 0 < row["low"] <= row["median"] <= row["high"]
        speed = row["details"]["images_per_second"]
        assert speed == pytest.approx(2 * 1000 / row["median"])
        assert row["details"]["peak_memory_mib"] > 100
    assert 0 <= found[at + "our step, no hooks, waiting for data"]["median"] <= 100
    assert found[at + "our step, no hooks, over the floor"]["median"] > 1
    assert found["start to first step, 400 images cached"]["median"] > 0
    assert found["2 epochs of 20 pairs, batch 1, full record"]["median"] > 0


def test_the_step_beside_that_of_the_first_version(figures: Path) -> None:
    found = rows(figures / "train.json")
    at = "batch 1, fp32, D of two strides: "
    original, ours = found[at + "the step of v0.2.3"], found[at + "our step"]
    assert (ours["baseline"], ours["limit"]) == (at + "the step of v0.2.3", 0.55)
    for row in (original, ours):
        work, speed = row["details"]["gflop_per_step"], row["details"]["sgemm_gflops"]
        share = 100 * work / speed / (row["median"] / 1000)
        assert row["details"]["share_of_sgemm_%"] == pytest.approx(share)
    # By hand, weights times pixels: 102,400 for G, three times, and 64,704 for D, eight times.
    assert original["details"]["gflop_per_step"] == pytest.approx(
        2 * 16 * (3 * 102_400 + 8 * 64_704) / 1e9
    )


def test_busy_cores_and_idle_ones(figures: Path) -> None:
    found = rows(figures / "train.json")
    for loops in ("no", cpu.usable_cores()):
        at = f"the demo's step, {loops} busy loops: "
        defaults = found[at + "torch's defaults"]
        for name in ("as nectargan-train sets them", "one thread"):
            assert found[at + name]["baseline"] == defaults["name"]
            assert found[at + name]["ratio"] > 0


@pytest.mark.usefixtures("tools")
def test_the_rebuilt_step_is_that_of_the_first_version() -> None:
    """As many parameters as there; and a step can be made."""
    from original_step import Discriminator, Generator, original_step

    sizes = [sum(p.numel() for p in n.parameters()) for n in (Generator(64, 6), Discriminator(64))]
    assert sizes == [54_404_675, 665_665]
    small: list[tuple[str, Any]] = [
        ("dataloader.load", {"crop_size": 16, "load_size": 16}),
        ("train.generator", {"features": 2, "n_downs": 1}),
        ("train.discriminator.base_channels", 2),
    ]
    original_step(ConfigManager(None, small).data)()


def test_what_needs_a_gpu_is_named_as_left_out(figures: Path) -> None:
    left_out = json.loads((figures / "train.json").read_text())["left_out"]
    names = [each["name"] for each in left_out]
    assert "batch 2, bf16, graph: all sinks, every loss of every step" in names
    assert len(set(names)) == len(names) == 12
    assert {each["reason"] for each in left_out} == {"there is no CUDA device"}


def test_the_record_is_measured_by_loss_and_by_row(figures: Path) -> None:
    found = rows(figures / "logging.json")
    assert found["a loss in the manager, no hooks"]["limit"] == 5.0
    assert found["a loss in the manager, recorder"]["limit"] == 15.0
    one, other = (found[f"appending a row to the {size} ledger"] for size in ("small", "large"))
    assert other["baseline"] == one["name"]
    assert one["low"] / other["high"] <= 1 / other["ratio"] <= one["high"] / other["low"]
    assert found["load_losses, peak memory"]["median"] > 0.05
    for row in found.values():
        value = row["median"] if row["ratio"] is None else row["ratio"]
        assert row["met"] == (None if row["limit"] is None else value <= row["limit"])


def test_figures_find_their_place_on_the_page(figures: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# Performance\n")
    both = [str(figures / "train.json"), str(figures / "logging.json")]
    run("performance_page.py", *both, "--page", str(page))
    once = page.read_text()
    assert once.startswith("# Performance\n")
    assert [line.split(" on ")[0] for line in once.splitlines() if line.startswith("###")] == [
        "### bench_train",
        "### bench_logging",
    ]
    assert "| batch 2, fp32, eager: plain reference loop |" in once
    run("performance_page.py", both[0], "--page", str(page))
    assert page.read_text() == once, "a section is replaced, not added again"


@pytest.fixture
def tools(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets a test import the tools."""
    monkeypatch.syspath_prepend(str(TOOLS))


@pytest.mark.usefixtures("tools")
def test_rounds_alternate() -> None:
    from benchmarking import Row, interleaved

    order: list[str] = []
    actions = {name: lambda name=name: order.append(name) for name in "abc"}
    seconds = interleaved(actions, 3)
    assert "".join(order) == "abccbaabc"
    assert all(len(each) == 3 for each in seconds.values())
    once = interleaved(actions, 3, until=0.0)
    assert all(len(each) == 1 for each in once.values()), "one round, however late it is"
    row = Row.compared("x", "s", {"x": [2.0, 9.0, 4.0], "y": [1.0, 3.0, 4.0]}, "y", limit=2.0)
    assert row.ratio == statistics.median([2.0, 3.0, 1.0])
    assert (row.median, row.low, row.high, row.met) == (4.0, 2.0, 9.0, True)


@pytest.mark.usefixtures("tools")
def test_figures_of_a_group_are_written_before_the_next_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import bench_train
    from benchmarking import Row

    path, seen = tmp_path / "figures.json", []

    def measured(_: object, group: str, batch: int, *rest: object) -> object:
        seen.append(sorted(rows(path)) if path.exists() else [])
        return [Row.of(f"{group} {batch}", "s", [1.0])], []

    monkeypatch.setattr(bench_train, "measured", measured)
    setting = bench_train.Setting(tmp_path, tmp_path, 64, torch.device("cuda"), small=False)
    bench_train.run_groups(setting, ["fp32", "full"], [1, 4], 1, 1.0, path)
    assert seen == [[], ["fp32 1"], ["fp32 1", "fp32 4"]]
    assert sorted(rows(path)) == ["fp32 1", "fp32 4", "full 1"]


@pytest.mark.usefixtures("tools")
def test_a_run_of_200_epochs_is_left_to_a_gpu(tmp_path: Path) -> None:
    import bench_train

    setting = bench_train.Setting(tmp_path, tmp_path, 256, torch.device("cpu"), small=False)
    assert bench_train.obstacle("full", setting) == "there is no CUDA device"
    assert bench_train.names_of("full", 1) == ["200 epochs of 400 pairs, batch 1, full record"]


def test_a_trace_of_one_step(tmp_path: Path) -> None:
    trace = tmp_path / "trace.json"
    shown = run("bench_train.py", "--quick", "--size", "64", "--trace", str(trace))
    events = json.loads(trace.read_text())["traceEvents"]
    assert any(event.get("name") == "aten::convolution_backward" for event in events)
    assert "cudaStreamSynchronize: 0" in shown
