"""An exported model with its card and its pictures."""

from __future__ import annotations

import errno
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple, get_args

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from nectargan.build import height_and_width
from nectargan.build_pairs import encoding_of, example_of, open_pairs
from nectargan.build_values import ValueMappings
from nectargan.config.schema import Config
from nectargan.dataset.data_check import check_data
from nectargan.dataset.decoding import in_mode
from nectargan.dataset.synthetic import draw_pair
from nectargan.errors import DataError, ExportError
from nectargan.files import digest_of_file, read_regular_text, replacing
from nectargan.images.pillow_files import MODES
from nectargan.inference.card import code_block, describe_training, facts_table
from nectargan.inference.export import Comparison, export_model, metadata_of
from nectargan.inference.exported import IMAGE_SUFFIXES, Format, require_packages
from nectargan.inference.model import Model, load_model
from nectargan.models.image_to_image import Values
from nectargan.runs.environment import own_command_line
from nectargan.shell import expanded
from nectargan.trainers.validation import encoded, save_grid
from nectargan.wording import counted

_PAIRS = 4  # in the picture
_COMPARED = 2
_DRAWN_SIDE = 256
DRAWN = "drawn fronts, as the data set of the run cannot be read"
_MARK = "<!-- The model card of {}, written by nectargan export. -->"
Pair = tuple[Tensor, Tensor]


class Export(NamedTuple):
    """What was written.

    Attributes:
        file: The model.
        card: Its model card.
        picture: Examples of what it makes.
        comparison: How well it agrees with the network.
        images: Which images it was compared on, as a phrase.
    """

    file: Path
    card: Path
    picture: Path
    comparison: Comparison
    images: str


def export(
    source: str | PathLike[str],
    output: str | PathLike[str] | None = None,
    *,
    kind: Format = "onnx",
    checkpoint: str | None = None,
    values: Values | None = None,
    precision: str = "fp32",
    data: str | PathLike[str] | None = None,
    license_name: str | None = None,
    overwrite: bool = False,
    trust: bool = False,
) -> Export:
    """Exports a trained generator, with a model card and a picture beside it.

    Args:
        source: What `load_model` takes, and is no exported model itself.
        output: The file, with the suffix of its format, or a folder, which is made if need be;
            ``<name>_export`` if it is left out. The card is ``README.md`` in the same folder; if
            there is another file of that name, ``<file>.md``.
        kind: "onnx", "pt2" or "safetensors".
        checkpoint: See `load_model`.
        values: "float" (in [0, 1], the default) or "uint8"; not for safetensors.
        precision: "fp32" or "fp16".
        data: A data set to compare on; else the one of the run, or drawn fronts if that cannot be
            read any more.
        license_name: The licence, for the card and the metadata.
        overwrite: Replace a model that is there.
        trust: See `load_model`.

    Raises:
        ExportError: it cannot be exported, would not agree with the network, or is there already.
        NectarGANError: the model or the data cannot be read.
    """
    if kind not in get_args(Format):
        raise ExportError(f"format is '{kind}'; allowed: {', '.join(get_args(Format))}.")
    if kind == "safetensors" and values is not None:
        raise ExportError(
            f"input is '{values}', but a safetensors file has weights alone, and takes no images."
        )
    if kind == "onnx":
        require_packages("onnx", "onnxscript", "onnxruntime")
    model = load_model(source, checkpoint=checkpoint, device="cpu", precision="fp32", trust=trust)
    values = values or "float"
    extra = {"license": license_name} if license_name else {}
    metadata = {**metadata_of(model, values, precision), **extra}
    file = _file_of(model.name, output, kind)
    picture = file.with_name(f"{file.name}.png")
    for path in (file, picture):
        if path.exists() and not overwrite:
            raise ExportError(f"'{path}' exists already; add --overwrite to replace it.")
    pairs, images = example_pairs(model.config, data, model.values)
    inputs = torch.stack([source for source, _ in pairs[:_COMPARED]])
    inputs = inputs / 255 if inputs.dtype == torch.uint8 else (inputs + 1) / 2
    if len(inputs) < _COMPARED:
        inputs = torch.cat((inputs, inputs.flip(3)))
    card = _card_path(file)
    try:
        with _at_once(file, picture, card) as (part, picture_part, card_part):
            comparison = export_model(
                model, part, kind, inputs, values=values, precision=precision, extra=extra
            )
            exported = Export(file, card, picture, comparison, images)
            _draw_examples(model, pairs, images, picture_part)
            text = _card(model, exported, digest_of_file(part), metadata, license_name)
            card_part.write_text(text, encoding="utf-8")
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise
        raise ExportError(f"'{file}' cannot be written: {error.strerror}.") from None
    return exported


@contextmanager
def _at_once(*paths: Path) -> Iterator[list[Path]]:
    """Files to write, which become ``paths``, in one folder, when all of them are written.

    Raises:
        OSError: they cannot be written; nothing has changed then.
    """
    folder = paths[0].parent
    there = next(each for each in (folder, *folder.absolute().parents) if each.exists())
    with TemporaryDirectory(prefix=".nectargan-", dir=there) as temporary:
        parts = [Path(temporary) / path.name for path in paths]
        yield parts
        folder.mkdir(parents=True, exist_ok=True)
        for part, path in zip(parts, paths, strict=True):
            part.replace(path)


def _file_of(name: str, output: str | PathLike[str] | None, kind: Format) -> Path:
    """The file to write."""
    name = re.sub(r"[^\w.-]+", "_", name)
    path = Path(f"{name}_export" if output is None else expanded(str(output)))
    suffix = next(suffix for suffix, of in IMAGE_SUFFIXES.items() if of == kind)
    if path.suffix.lower() in IMAGE_SUFFIXES and not path.is_dir():
        if path.suffix.lower() != suffix:
            raise ExportError(
                f"'{path}' has the suffix of another format; a {kind} file ends in {suffix}."
            )
        return path
    if path.exists() and not path.is_dir():
        raise ExportError(
            f"'{path}' is a file; give a folder, or a file whose name ends in {suffix}."
        )
    return path / f"{name}{suffix}"


def _card_path(file: Path) -> Path:
    """``README.md``, unless that is somebody else's, or the card of another model."""
    card = file.with_name("README.md")
    if not card.exists():
        return card
    try:
        is_ours = _MARK.format(file.name) in read_regular_text(card)
    except (OSError, UnicodeDecodeError):
        is_ours = False
    return card if is_ours else file.with_name(f"{file.name}.md")


# --- images --------------------------------------------------------------------------------------


def example_pairs(
    config: Config,
    data: str | PathLike[str] | None = None,
    values: ValueMappings | None = None,
) -> tuple[list[Pair], str]:
    """Some pairs as in validation, and where they are from, as a phrase.

    Args:
        config: Of the run.
        data: A data set; else that of the run, or drawn fronts if it cannot be read.
        values: The value mappings of the run; ``None`` for those of plain 8-bit images.

    Returns:
        The pairs, each image uint8, or float32 in [-1, 1] if it is not a plain 8-bit image; and the
        phrase.

    Raises:
        DataError: ``data`` cannot be read.
    """
    root = expanded(str(data)) if data is not None else config.dataloader.dataroot
    problem: DataError | None = None
    for split in ("val", "train") if root else ():
        try:
            channels = config.dataloader.channels_of_sides
            found = check_data(root, (split,), (), channels, most=_PAIRS)[split]
            pairs = open_pairs(config, found, [found])
            encode = encoding_of(pairs, values)
            name = {"val": "validation", "train": "training"}[split]
            images = [example_of(pairs[i], encode) for i in range(len(pairs))]
            return images, f"{name} images of '{root}'"
        except DataError as error:
            problem = problem or error
    if data is not None and problem is not None:
        raise problem
    return _drawn_pairs(config), DRAWN


def _draw_examples(model: Model, pairs: list[Pair], images: str, path: Path) -> None:
    """Writes the picture; that of the last epoch in place of fronts which may mean nothing to the
    network."""
    seen = sorted(model.run.examples.glob("epoch_*.png")) if model.run else []
    if images == DRAWN and seen:
        with replacing(path) as part:
            part.write_bytes(seen[-1].read_bytes())
        return
    save_grid(pairs, [model.generate(encoded(pair[0][None]))[0] for pair in pairs], path)


def _drawn_pairs(config: Config) -> list[Pair]:
    load = config.dataloader.load
    size = height_and_width(load.crop_size)
    rng = np.random.default_rng(0)
    pairs = []
    for _ in range(_PAIRS):
        labels, front = draw_pair(_DRAWN_SIDE, rng)
        if config.dataloader.direction == "BtoA":
            labels, front = front, labels
        pairs.append((_fitted(labels, load.input_nc, size), _fitted(front, load.output_nc, size)))
    return pairs


def _fitted(image: np.ndarray, channels: int, size: tuple[int, int]) -> Tensor:
    """uint8 ``(C, H, W)``."""
    picture = in_mode(Image.fromarray(image), MODES.get(channels, "L")).resize((size[1], size[0]))
    values = np.array(picture).reshape(*size, -1).transpose(2, 0, 1)
    return torch.from_numpy(values).expand(channels, -1, -1).contiguous()


# --- card ----------------------------------------------------------------------------------------


def _card(
    model: Model, made: Export, digest: str, metadata: dict[str, str], license_name: str | None
) -> str:
    name, kind = made.file.name, IMAGE_SUFFIXES[made.file.suffix.lower()]
    load, generator = model.config.dataloader.load, model.config.train.generator
    height, width = height_and_width(load.crop_size)
    facts = {
        "file": name,
        "SHA-256": digest,
        "made of": f"{model.name}, epoch {model.epoch}" if model.epoch else model.name,
        "network": getattr(generator, "name", None) or getattr(generator, "function", ""),
        "input": f"{metadata['input']}, {metadata['range']}",
        "output": f"{metadata['output']}, {metadata['range']}",
        "sizes": f"any; {height} x {width} in training",
        "computes in": metadata["precision"],
        "largest difference from the network": f"{made.comparison}, on {made.images}",
        "written by": f"NectarGAN {metadata['nectargan_version']}",
        **({"commit": metadata["git_commit"]} if "git_commit" in metadata else {}),
    }
    if kind == "safetensors":
        facts["input"] = f"{metadata['input']}, float32 in [-1, 1]"
        facts["output"] = f"{metadata['output']}, float32 in [-1, 1]"
    if model.values is not None:
        ends = "-1 and 1" if kind == "safetensors" else "0 and 1"
        where = "are the ends of this range, see value_mappings in the metadata of the file"
        facts["values of the input"] = f"{model.values.input}; {ends} {where}"
        facts["values of the output"] = f"{model.values.target}; {ends} {where}"
    sections = [
        _front(license_name),
        _MARK.format(name),
        f"# {model.name}",
        f"An image-to-image network: from {counted(load.input_nc, 'channel')} to "
        f"{counted(load.output_nc, 'channel')}, in the size of the input.",
        facts_table(facts),
        "## Use",
        f"From the command line: `nectargan apply {name} photos -o generated`. In Python:",
        code_block(_usage(kind, name, metadata), "python"),
        describe_training(model.config, model.run, model.epoch, license_name),
        "## Examples",
        "From left to right: input, generated, target.",
        f"![Examples]({made.picture.name})",
        "## Exported by",
        code_block(own_command_line(), "sh"),
        "## Config",
        code_block(json.dumps(json.loads(metadata["config"]), indent=2), "json"),
    ]
    return "\n\n".join(sections) + "\n"


def _front(license_name: str | None) -> str:
    """What sites that share models read."""
    lines: Sequence[str] = (
        "---",
        f"license: {json.dumps(license_name or 'unknown')}",
        "library_name: nectargan",
        "pipeline_tag: image-to-image",
        "---",
    )
    return "\n".join(lines)


def _usage(kind: Format, name: str, metadata: dict[str, str]) -> str:
    channels, height, width = (
        metadata[key] for key in ("in_channels", "training_height", "training_width")
    )
    shape = f"(1, {channels}, {height}, {width})"
    if kind == "safetensors":
        return (
            "import torch\n\nfrom nectargan import load_model\n\n"
            f'model = load_model("{name}")\n'
            f"generated = model.generate(torch.rand{shape} * 2 - 1)"
        )
    if kind == "pt2":
        images = (
            f"torch.randint(0, 256, {shape}, dtype=torch.uint8)"
            if metadata["values"] == "uint8"
            else f"torch.rand{shape}"
        )
        return (
            "import torch\n\n"
            f'model = torch.export.load("{name}").module()\n'
            f"images = {images}\ngenerated = model(images)"
        )
    images = (
        f"np.random.randint(0, 256, {shape}, dtype=np.uint8)"
        if metadata["values"] == "uint8"
        else f"np.random.rand{shape}.astype(np.float32)"
    )
    return (
        "import numpy as np\nimport onnxruntime\n\n"
        f'session = onnxruntime.InferenceSession("{name}")\n'
        f"images = {images}\n"
        '(generated,) = session.run(None, {"images": images})'
    )
