"""Measures `nectargan apply`: its speed compared with a plain loop of Pillow and torch, the seams
of tiles, and the memory for a large image.

python tools/bench_apply.py
python tools/bench_apply.py runs/demo_v1 --json figures.json
python tools/bench_apply.py runs/demo_v1 --seams --large 8192

Without MODEL, an untrained generator of the default config is used; speed and memory are the
same. The photograph that is enlarged for --seams comes with matplotlib.
"""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import cast

import click
import numpy as np
import torch
from benchmarking import COUNT, Row, count_option, interleaved, json_option, peak_memory, report
from PIL import Image

from nectargan.build import build_generator
from nectargan.config.config_manager import load_config
from nectargan.inference.apply import Reading, apply_model
from nectargan.inference.inputs import find_inputs
from nectargan.inference.model import Model, load_model
from nectargan.inference.pixels import PixelGenerator, Tiling
from nectargan.runs.training_state import Checkpoint


def untrained(folder: Path) -> Path:
    """Writes a checkpoint of the untrained default generator."""
    config = load_config()
    state = {"generator": build_generator(config).state_dict()}
    Checkpoint(config=config.model_dump(mode="json"), epoch=0, step=0, networks=state).save(
        path := folder / "untrained.pt"
    )
    return path


# --- speed ---------------------------------------------------------------------------------------


def plain_loop(model: Model, folder: Path, out: Path) -> None:
    """A plain loop over the images of a folder."""
    network = cast("torch.nn.Module", model.network)
    out.mkdir(exist_ok=True)
    for path in sorted(folder.iterdir()):
        pixels = np.asarray(Image.open(path).convert("RGB"))
        batch = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1
        with torch.no_grad():
            generated = network(batch.to(model.device))
        image = ((generated[0].permute(1, 2, 0) + 1) * 127.5).round().clamp(0, 255)
        Image.fromarray(image.to(torch.uint8).cpu().numpy()).save(out / path.name)


def speed_rows(
    source: str, device: str, count: int, side: int, rounds: int, work: Path
) -> list[Row]:
    """Seconds for a folder of images with both, without loading the model and the first batch."""
    photos = work / "photos"
    photos.mkdir()
    for index in range(count):
        Image.fromarray(photograph(side, side, index)).save(photos / f"{index:04d}.png")
    plain = load_model(source, device=device, precision="fp32")
    model = load_model(
        source, device=device, precision=None if plain.device.type == "cpu" else "auto"
    )
    generate = PixelGenerator(model)
    jobs = find_inputs([str(photos)], str(work / "ours"), model.out_channels).jobs

    def ours() -> None:
        apply_model(model, jobs, Reading(overwrite=True), generate)

    actions = {"plain loop": lambda: plain_loop(plain, photos, work / "plain"), "apply": ours}
    for action in actions.values():
        action()
    seconds = interleaved(actions, rounds)
    where = f"{count} PNG images of {side} x {side} on {plain.device}"
    named = {f"{where}: {name}": values for name, values in seconds.items()}
    base = f"{where}: plain loop"
    limit = 1.0 if plain.device.type == "cpu" else 1 / 3
    rows = []
    for name in named:
        row = Row.compared(name, "s", named, base, None if name == base else limit)
        row.details["images_per_second"] = count / row.median
        rows.append(row)
    return rows


def photograph(height: int, width: int, number: int = 0) -> np.ndarray:
    """The photograph of Grace Hopper, enlarged to a size; each number selects another part."""
    from matplotlib import cbook

    image = Image.open(cbook.get_sample_data("grace_hopper.jpg", asfileobj=False)).convert("RGB")
    left, top = 16 * (number % 8), 16 * (number // 8 % 8)
    box = (left, top, image.width - 128 + left, image.height - 128 + top)
    return np.asarray(image.resize((width, height), Image.Resampling.BICUBIC, box))


# --- seams ---------------------------------------------------------------------------------------


def seam_rows(source: str, device: str, tile: int, work: Path) -> list[Row]:
    """The difference between a tiled and a whole image, at the seams and elsewhere."""
    model = load_model(source, device=device, precision="fp32")
    # Floats, as 8 bits would hide what is below half a step.
    image = photograph(1536, 2048).astype(np.float32) / 255
    (whole,) = PixelGenerator(model, Tiling(tile=0))([image])
    rows = []
    for norm in ("exact", "fast", "own"):
        generate = PixelGenerator(
            without_network(model) if norm == "own" else model,
            Tiling(tile, None, None if norm == "own" else norm),  # type: ignore[arg-type]
        )
        began = time.perf_counter()
        (tiled,) = generate([image])
        seconds = time.perf_counter() - began
        (grid,) = filter(None, generate.grids.values())
        seams = np.zeros((1536, 2048), bool)
        for before, after in itertools.pairwise(grid.rows):
            seams[after.start : before.end] = True
        for before, after in itertools.pairwise(grid.columns):
            seams[:, after.start : before.end] = True
        apart = np.abs(tiled - whole).mean(axis=2) * 255
        at, elsewhere = float(apart[seams].mean()), float(apart[~seams].mean())
        row = Row.of(f"2048 x 1536, {norm}: at seams", "of 255", [at])
        row.details = {
            "elsewhere": elsewhere,
            "largest": float(apart.max()),
            "seconds": seconds,
            "how": generate.notes[0],
        }
        rows.append(row)
    return rows


def without_network(model: Model) -> Model:
    """The same model with unchanged norm layers."""
    from dataclasses import replace

    return replace(model, network=None)


# --- memory --------------------------------------------------------------------------------------


def memory_row(source: str, device: str, side: int, words: list[str], work: Path) -> Row:
    """Peak memory of a process that applies a model to one large image."""
    path = work / "large.png"
    Image.fromarray(photograph(side, side)).save(path, compress_level=1)
    command = [sys.executable, __file__, source, "--device", device, "--one", str(path), *words]
    done = subprocess.run(command, capture_output=True, text=True)  # noqa: S603 - ourselves
    if done.returncode:
        raise click.ClickException(done.stderr)
    found = json.loads(done.stdout.splitlines()[-1])
    row = Row.of(f"{side} x {side}: peak memory", "MiB", [found["peak"] / 2**20])
    row.details = {key: value for key, value in found.items() if key != "peak"}
    return row


def apply_to_one(source: str, device: str, path: Path, tiling: Tiling) -> dict[str, object]:
    """Applies a model to one image in this process, and measures the peak memory."""
    model = load_model(source, device=device, precision="fp32")
    generate = PixelGenerator(model, tiling)
    jobs = find_inputs([str(path)], str(path.with_name("made.png")), model.out_channels).jobs
    before = peak_memory()
    outcome = apply_model(model, jobs, Reading(overwrite=True), generate)
    found: dict[str, object] = {"peak": peak_memory(), "before_mib": before / 2**20}
    if model.device.type == "cuda":
        found["cuda_mib"] = torch.cuda.max_memory_allocated() / 2**20
    how = "; ".join(generate.notes) or "in one piece"
    return {**found, "seconds": outcome.seconds, "how": how}


@click.command()
@click.argument("model", required=False)
@click.option("--device", default="auto")
@count_option("--images", 32, "Number of images.")
@count_option("--side", 256, "Side of the images in pixels.")
@count_option("--rounds", 3, "Number of rounds.")
@click.option("--seams", is_flag=True, help="Compare tiles with a whole image of 2048 x 1536.")
@click.option("--large", type=COUNT, help="Measure the memory for one image of this side.")
@click.option("--tile", type=click.IntRange(min=0))
@click.option("--tile-norm", type=click.Choice(["exact", "fast"]))
@click.option("--one", type=click.Path(path_type=Path), hidden=True)
@json_option
def main(
    model: str | None,
    device: str,
    images: int,
    side: int,
    rounds: int,
    seams: bool,
    large: int | None,
    tile: int | None,
    tile_norm: str | None,
    one: Path | None,
    json_path: Path | None,
) -> None:
    """Measure nectargan apply with MODEL."""
    if one is not None:
        tiling = Tiling(tile, None, tile_norm)  # type: ignore[arg-type]
        click.echo(json.dumps(apply_to_one(str(model), device, one, tiling)))
        return
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        source = model or str(untrained(work))
        if seams:
            rows += seam_rows(source, device, tile or 512, work)
        if large is not None:
            words = [] if tile is None else ["--tile", str(tile)]
            words += [] if tile_norm is None else ["--tile-norm", tile_norm]
            rows.append(memory_row(source, device, large, words, work))
        if not rows:
            rows = speed_rows(source, device, images, side, rounds, work)
    report(rows, [], json_path)


if __name__ == "__main__":
    main()
