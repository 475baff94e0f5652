"""Makes a small paired data set of photographs from files that installed packages ship.

Inputs are grey and blurred, targets are the photographs: a network learns to sharpen and to color.
The photographs are cut into tiles. The last column of tiles of each is for validation.

- china.jpg by danielbuechele and flower.jpg by vultilion, from scikit-learn: Creative Commons
  Attribution 2.0.
- grace_hopper.jpg by James S. Davis, United States Navy, from matplotlib: public domain.

python tools/photographs.py photos
python tools/photographs.py photos --size 64
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import click
from PIL import Image, ImageFilter

PHOTOGRAPHS = {
    "sklearn": ("datasets/images/china.jpg", "datasets/images/flower.jpg"),
    "matplotlib": ("mpl-data/sample_data/grace_hopper.jpg",),
}


def photographs() -> list[Path]:
    """The photographs of the packages; raises `click.ClickException` if one is missing."""
    found = []
    for package, files in PHOTOGRAPHS.items():
        spec = find_spec(package)
        if spec is None or spec.origin is None:
            raise click.ClickException(f"The package '{package}' is not installed.")
        found += [Path(spec.origin).parent / file for file in files]
    for path in found:
        if not path.exists():
            raise click.ClickException(f"'{path}' is not there.")
    return found


def degraded(photograph: Image.Image, radius: float) -> Image.Image:
    """The photograph in grey, blurred with a Gaussian of this standard deviation in pixels."""
    return photograph.convert("L").filter(ImageFilter.GaussianBlur(radius)).convert("RGB")


@click.command()
@click.argument("output", type=click.Path(path_type=Path))
@click.option("--size", type=click.IntRange(8, 256), default=64, show_default=True)
@click.option("--blur", type=click.FloatRange(0, 20), default=2.0, show_default=True)
def main(output: Path, size: int, blur: float) -> None:
    """Write pairs, side by side, to OUTPUT/train and OUTPUT/val."""
    if output.exists():
        raise click.ClickException(f"'{output}' exists.")
    counts = {"train": 0, "val": 0}
    for split in counts:
        (output / split).mkdir(parents=True)
    for path in photographs():
        target = Image.open(path).convert("RGB")
        source = degraded(target, blur)
        columns, rows = target.width // size, target.height // size
        for column in range(columns):
            split = "val" if column == columns - 1 else "train"
            for row in range(rows):
                box = (column * size, row * size, (column + 1) * size, (row + 1) * size)
                pair = Image.new("RGB", (2 * size, size))
                pair.paste(source.crop(box), (0, 0))
                pair.paste(target.crop(box), (size, 0))
                pair.save(output / split / f"{path.stem}_{row}_{column}.png")
                counts[split] += 1
    click.echo(f"Wrote {counts['train']} training and {counts['val']} validation pairs.")


if __name__ == "__main__":
    main()
