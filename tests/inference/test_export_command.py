"""``nectargan export``, and ``apply`` of what it wrote."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from nectargan.cli.main import main
from nectargan.record.run_directory import RunDirectory


def test_apply_runs_what_export_wrote(
    trained: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    noise = np.random.default_rng(0).integers(0, 256, (37, 21, 3), dtype=np.uint8)
    Image.fromarray(noise).save("photo.png")

    def run(*words: str) -> str:
        result = CliRunner().invoke(main, words)
        assert result.exit_code == 0, result.output
        return result.stdout

    def applied(model: str) -> np.ndarray:
        made = f"by_{Path(model).name}.png"
        run("apply", model, "photo.png", "-o", made, "--device", "cpu")
        return np.asarray(Image.open(made)).astype(int)

    told = run("export", str(trained), "--format", "onnx", "--license", "CC0-1.0")
    assert told.startswith(f"Wrote {Path('tiny_v1_export/tiny_v1.onnx')}, README.md and ")
    assert "in [0, 1]: " in told
    assert "on validation images of" in told
    run("export", str(trained), "--format", "pt2", "--fp16", "--input", "uint8", "-o", "m.pt2")
    run("export", str(trained), "--format", "safetensors", "-o", "m.safetensors")
    wanted = applied(str(trained))
    assert wanted.shape == noise.shape
    for model, steps in (("tiny_v1_export/tiny_v1.onnx", 1), ("m.pt2", 3), ("m.safetensors", 0)):
        assert np.abs(applied(model) - wanted).max() <= steps


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["none"], "'none' is neither a run directory nor a checkpoint"),
        (["{run}", "-o", "photo.txt/below"], "cannot be written: "),
        (["{run}", "-d", "none", "--format", "safetensors"], "none"),
    ],
)
def test_nothing_is_left_of_what_fails(
    trained: RunDirectory,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    told: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("photo.txt").touch()
    given = [word.format(run=trained) for word in words]
    result = CliRunner().invoke(main, ["export", *given])
    assert result.exit_code == 2, result.output
    assert told in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["photo.txt"]
