"""Bad input of every kind: one sentence on standard error, exit code 2, nothing made or changed."""

from __future__ import annotations

import copy
import json
import pickle
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from nectargan.cli.main import main
from nectargan.config.schema import Config
from tests.conftest import TINY, draw_pairs

if sys.platform == "win32":
    pytest.skip("there is no fork", allow_module_level=True)

from tests.forks import MEMORY, run_forked

Make = Callable[..., Config]


class Case(NamedTuple):
    """One bad input.

    Attributes:
        name: What is wrong.
        prepare: Makes files in a folder; returns the arguments of ``nectargan``.
        sentence: A part of what must be said.
    """

    name: str
    prepare: Callable[[Path], list[str]]
    sentence: str


def base(folder: Path) -> dict[str, Any]:
    """A config that is right, with its data."""
    config = copy.deepcopy(TINY)
    config["common"]["output_directory"] = str(folder / "runs")
    config["dataloader"]["dataroot"] = str(folder / "data")
    return config


def config_with(key: str, value: Any) -> Callable[[Path], list[str]]:
    """Trains on a config with one option changed."""

    def prepare(folder: Path) -> list[str]:
        config = base(folder)
        section = config
        *path, last = key.split(".")
        for name in path:
            section = section.setdefault(name, {})
        section[last] = value
        (folder / "c.json").write_text(json.dumps(config))
        return ["train", "-c", str(folder / "c.json")]

    return prepare


def config_text(text: str | bytes, suffix: str = "json") -> Callable[[Path], list[str]]:
    """Trains on a file with some content."""

    def prepare(folder: Path) -> list[str]:
        path = folder / f"c.{suffix}"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return ["train", "-c", str(path)]

    return prepare


def flags(*arguments: str) -> Callable[[Path], list[str]]:
    """Trains on the right config with some arguments more."""

    def prepare(folder: Path) -> list[str]:
        (folder / "c.json").write_text(json.dumps(base(folder)))
        return ["train", "-c", str(folder / "c.json"), *arguments]

    return prepare


def data(spoil: Callable[[Path], object]) -> Callable[[Path], list[str]]:
    """Trains on a data set that was spoilt."""

    def prepare(folder: Path) -> list[str]:
        spoil(folder / "data")
        return flags()(folder)

    return prepare


def checkpoint(content: Callable[[Path], object]) -> Callable[[Path], list[str]]:
    """Resumes a run with a spoilt checkpoint."""

    def prepare(folder: Path) -> list[str]:
        run = folder / "runs" / "NectarGAN_v1"
        (run / "checkpoints").mkdir(parents=True)
        content(run / "checkpoints" / "epoch_0001.pt")
        return ["train", "--resume", str(run)]

    return prepare


def image(path: str, size: tuple[int, int], mode: str = "RGB") -> Callable[[Path], None]:
    def spoil(root: Path) -> None:
        Image.new(mode, size).save(root / path)

    return spoil


def zip_as_png(root: Path) -> None:
    with zipfile.ZipFile(root / "train" / "z.png", "w") as file:
        file.writestr("a", "b")


def symlink_loop(root: Path) -> None:
    (root / "train" / "loop.png").symlink_to(root / "train" / "loop.png")


def truncated(root: Path) -> None:
    path = root / "train" / "0.png"
    path.write_bytes(path.read_bytes()[:-200])


def bomb(root: Path) -> None:
    Image.new("1", (20_000, 20_000)).save(root / "train" / "bomb.png")


def without_partner(root: Path) -> None:
    import shutil

    shutil.rmtree(root / "train")
    for folder, name in (("trainA", "1.png"), ("trainB", "1.png"), ("trainA", "2.png")):
        (root / folder).mkdir(exist_ok=True)
        Image.fromarray(np.zeros((36, 36, 3), np.uint8)).save(root / folder / name)


def empty_split(root: Path) -> None:
    for path in (root / "train").iterdir():
        path.unlink()


class Evil:
    """Would write a file if it were unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("/tmp/evil"),)  # noqa: S108


def crafted(**parts: Any) -> Callable[[Path], None]:
    """A checkpoint that could be ours, with some parts of its section "training" changed."""

    def make(path: Path) -> None:
        (path.parents[3] / "other.csv").write_text("step\n1\n2\n")
        training = {
            "epoch": 1,
            "batch": None,
            "epoch_began": 0,
            "bests": {},
            "random": {},
            "ledgers": {},
            "optimizers": {},
            "scaler": {},
        }
        content = {
            "format": parts.pop("format", 2),
            "nectargan_version": "1",
            "config": parts.pop("config", base(path.parents[3])),
            "epoch": 1,
            "step": 1,
            "networks": {"generator": {"x": torch.zeros(1)}, "discriminator": {}},
            "training": {**training, **parts},
        }
        torch.save(content, path)

    return make


def option(key: str, value: Any) -> Callable[[Path], list[str]]:
    """Trains on the right config with one option given by ``--set``."""
    return flags("--set", f"{key}={value if isinstance(value, str) else json.dumps(value)}")


def drawing(*arguments: str) -> Callable[[Path], list[str]]:
    """Draws a data set with some arguments."""
    return lambda folder: ["data", "synth", str(folder / "drawn"), *arguments]


def nested(depth: int) -> dict[str, Any]:
    return {"a": nested(depth - 1)} if depth else {}


# Each line has ten of the one before: a billion values.
LAUGHTER = "l0: &l0 [0]\n" + "".join(
    f"l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 10)}]\n" for n in range(1, 10)
)
POINTS = "piecewise " + " ".join(f"{epoch}:1" for epoch in range(1, 12_001))
LONG = {"epochs": 99_999, "epochs_decay": 99_999}
BIG = {"load_size": 65_536, "crop_size": 65_536}
D_WIDTH = "train.discriminator.base_channels"
DIGITS = "1,2,3,4,5,6,7,8,9,10"
SWEPT = [
    *("dataloader.batch_size", "common.seed", "train.loss.G_L1"),
    *("train.loss.G_GAN", "train.loss.D_real", "train.loss.D_fake"),
]

RECURSIVE = "train: &a\n  loss: *a\n"

BACKWARDS = {"schedule": "linear", "start_epoch": 9, "end_epoch": 2, "target_value": 0.0}
ODD_ARGUMENTS = {"function": "torch.nn.L1Loss", "arguments": {"a": 1}}
NO_FIT = {"load_size": 34, "crop_size": 33}
NAME, GIVEN = "common.experiment_name", "train.loss.G_X"

CASES = [
    # Configs.
    Case("unknown section", config_with("trian", {}), "Did you mean 'train'"),
    Case("unknown key", config_with("common.sede", 1), "Did you mean 'seed'"),
    Case("nested typo", config_with("train.generator.optimizer.beta3", 1), "beta3"),
    Case("wrong type", config_with("dataloader.batch_size", "two"), "dataloader.batch_size"),
    Case("a number as text", config_with("common.seed", "5"), "common.seed"),
    Case("negative", config_with("dataloader.num_workers", -1), "dataloader.num_workers"),
    Case("zero", config_with("dataloader.batch_size", 0), "dataloader.batch_size"),
    Case("a bool for a number", config_with("common.seed", True), "common.seed"),
    Case("NaN", config_text('{"train": {"loss": {"G_L1": NaN}}}'), "NaN"),
    Case("infinity", config_text('{"train": {"loss": {"G_L1": 1e999}}}'), "G_L1"),
    Case("not JSON", config_text("{'a': 1}"), "JSON"),
    Case("empty", config_text(""), "c.json"),
    Case("a list", config_text("[1]"), "c.json"),
    Case("a key twice", config_text('{"common": {}, "common": {}}'), "common"),
    Case("binary", config_text(bytes(range(256))), "c.json"),
    Case("YAML with Python tags", config_text("a: !!python/object/apply:os.getcwd []", "yaml"), ""),
    Case("recursive YAML", config_text(RECURSIVE, "yaml"), ""),
    Case("deep JSON", config_text("[" * 100_000), "c.json"),
    Case("a directory", lambda folder: ["train", "-c", str(folder)], "directory"),
    Case("no such file", lambda folder: ["train", "-c", str(folder / "no.json")], "no.json"),
    Case("schedule: end before start", config_with("train.loss.G_L1", BACKWARDS), "epoch"),
    Case("schedule: unknown", config_with("train.loss.G_L1.schedule", "lineer"), "'linear'"),
    Case("a term that is no Module", config_with(f"{GIVEN}.function", "pathlib.Path"), "nn.Module"),
    Case("a term that is not there", config_with(f"{GIVEN}.function", "no.Loss"), "no.Loss"),
    Case("a term with wrong arguments", config_with(GIVEN, ODD_ARGUMENTS), f"{GIVEN}.arguments"),
    Case("an unknown loss", config_with("train.loss.G_L3", 1.0), "Did you mean 'G_L1'"),
    Case("crop larger than load", config_with("dataloader.load.crop_size", 40), "crop_size"),
    Case("sizes that do not fit the network", config_with("dataloader.load", NO_FIT), "33"),
    Case("a name with ../", config_with(NAME, "../x"), "experiment_name"),
    Case("a name with quotes", config_with(NAME, "a'b\"c"), "experiment_name"),
    Case("a name of 300 characters", config_with(NAME, "x" * 300), "experiment_name"),
    Case("a loss named with ..", config_with("train.loss", {"a/../b": ODD_ARGUMENTS}), "a/../b"),
    Case("a tracking folder", config_with("logging.mlflow.tracking_uri", "mlruns"), "tracking_uri"),
    Case("a password in a bad address", flags("--mlflow-uri", "ftp://ada:sesame@h"), '"ftp://h"'),
    Case("sinks without a ledger", config_with("logging", {"csv": False}), "csv"),
    # Command lines.
    Case("conflicting flags", flags("--mlflow-required", "--no-mlflow"), "contradict"),
    Case("a database not to log to", flags("--mlflow-uri", "x.db", "--no-mlflow"), "--mlflow-uri"),
    Case("no such device", flags("--device", "tpu"), "tpu"),
    Case("a device index that does not exist", flags("--device", "cuda:99"), "cuda:99"),
    Case("a graph without CUDA", flags("--set", "train.cuda_graph=on"), "train.cuda_graph is 'on'"),
    Case("--set without a value", flags("--set", "common.seed"), "common.seed"),
    Case("--set of an unknown key", flags("--set", "common.sede=1"), "seed"),
    Case("epochs of 0", flags("--epochs", "0"), "epochs"),
    Case("a precision that is none", flags("--precision", "fp8"), "fp8"),
    Case("an unknown option", flags("--lr", "1"), "--lr"),
    Case("--csv in no directory", flags("--csv", "/no/such/place.csv"), "/no/such/place.csv"),
    Case("--resume of nothing", flags("--resume", "/no/run"), "/no/run"),
    Case(
        "export of nothing",
        lambda f: ["export-csv", str(f / "x"), "-o", str(f / "y")],
        "not a run directory",
    ),
    Case("plot of nothing", lambda f: ["plot", str(f / "x")], "not a run directory"),
    Case("sync of nothing", lambda f: ["sync", str(f / "x")], "not a run directory"),
    Case("runs of nothing", lambda f: ["runs", str(f / "x")], "not a directory"),
    # Data.
    Case("no data", flags("-d", "/no/data"), "/no/data"),
    Case("no images", data(empty_split), "train"),
    Case("a zip named png", data(zip_as_png), "z.png"),
    Case("a truncated image", data(truncated), "0.png"),
    Case("an odd width", data(image("train/odd.png", (73, 36))), "odd.png"),
    Case("a 1 x 1 image", data(image("train/dot.png", (1, 1))), "dot.png"),
    Case("floats", data(image("train/f.tiff", (72, 36), "F")), "f.tiff"),
    Case("a symlink loop", data(symlink_loop), "loop.png"),
    Case("a decompression bomb", data(bomb), "bomb.png"),
    Case("an image without a partner", data(without_partner), "2"),
    # Numbers that no machine can hold.
    Case("a trillion epochs", flags("--epochs", f"{10**12}"), "1 to 100000 are allowed"),
    Case("two phases too long", option("train.generator.learning_rate", LONG), "at most 100000"),
    Case("a trillion pairs a step", flags("--batch-size", f"{10**12}"), "--batch-size"),
    Case("a device index past a byte", flags("--device", "cuda:999"), "torch sees 0 CUDA devices"),
    Case("a device index that wraps", flags("--device", "cuda:256"), "torch sees"),
    Case("a device index past an int", flags("--device", f"cuda:{10**20}"), "'cuda:N'"),
    Case("a key a thousand deep", flags("--set", "a." * 1000 + "b=1"), "has 1001 parts"),
    Case("a value 2000 deep", option("train.loss.G_L1", "[" * 2000 + "]" * 2000), "too deeply"),
    Case("40 levels of arguments", option(f"{GIVEN}.arguments", nested(40)), "nested deeper"),
    Case("a million values", option(GIVEN, {"arguments": {"a": [0] * 10**6}}), "100000 values"),
    Case("YAML that laughs", config_text(LAUGHTER, "yaml"), "100000 values"),
    Case("12,000 points", option("train.loss.G_L1", POINTS), "at most 10000 items"),
    Case("a weight past float32", option("train.loss.G_L1", 1e39), "train.loss.G_L1"),
    Case("a million levels", option("train.generator.n_downs", 10**6), "n_downs cannot be 1000000"),
    Case("16 levels", option("train.generator.n_downs", 16), "n_downs=16"),
    Case("16 layers", option("train.discriminator.n_layers", 16), "n_layers=16"),
    Case("a network of a billion channels", option("train.generator.features", 10**9), "features"),
    Case("a network past the memory", option("train.generator.features", 8192), "this machine has"),
    Case("images past the memory", option("dataloader.load", BIG), "this machine has"),
    Case("channels above their bound", option(D_WIDTH, 1024), "above max_channels 512"),
    Case("a day to drain", option("logging.drain_seconds", 1e300), "drain_seconds"),
    Case("a million runs", flags(*[f"--sweep={k}={DIGITS}" for k in SWEPT]), "asks for 1000000"),
    Case("a sweep to infinity", flags("--sweep", "train.loss.G_L1=1..1e400"), "range of a float32"),
    Case("a path too long", flags("-d", "x/" * 3000), "File name too long"),
    Case("an output too long", flags("-o", "x" * 5000), "File name too long"),
    Case("a trillion drawings", drawing("--train", f"{10**12}"), "from 1 to 1000000"),
    Case("drawings below zero", drawing("--val", "-1"), "val pairs is -1"),
    Case("huge drawings", drawing("--size", "1000000"), "from 32 to 1024"),
    Case("a seed below zero", drawing("--seed", "-1"), "The seed is -1"),
    Case("a seed too large", drawing("--seed", f"{2**32}"), f"The seed is {2**32}"),
    # Checkpoints.
    Case("no checkpoint", checkpoint(lambda path: None), "holds no checkpoint"),
    Case("an empty one", checkpoint(Path.touch), "is damaged"),
    Case("pickled code", checkpoint(lambda p: p.write_bytes(pickle.dumps(Evil()))), "is damaged"),
    Case("code in a zip", checkpoint(lambda path: torch.save(Evil(), path)), "is damaged"),
    Case("a foreign one", checkpoint(lambda path: torch.save({"a": 1}, path)), "not a checkpoint"),
    Case("no lengths of ledgers", checkpoint(crafted()), "lacks the sizes of the CSV files"),
    Case("a newer version", checkpoint(crafted(format=3)), "reads up to 2"),
    Case("a file as its config", checkpoint(crafted(config="c.json")), "config: "),
    Case("an epoch below 0", checkpoint(crafted(epoch=-1)), "epoch: "),
    Case("a batch that is text", checkpoint(crafted(batch="x")), "batch"),
    Case("other files to cut", checkpoint(crafted(ledgers={"../../other.csv": 5})), "ledgers."),
]  # fmt: skip


def tree(folder: Path) -> dict[str, bytes | None]:
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
        if not path.is_symlink()
    }


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_bad_input(case: Case, tmp_path: Path) -> None:
    draw_pairs(tmp_path / "data", "train", 2, side=36)
    arguments = case.prepare(tmp_path)
    before = tree(tmp_path)
    ended = run_forked(arguments, tmp_path)
    said = [line for line in ended.err.splitlines() if not line.startswith("Usage:")]
    assert ended.code == 2, ended
    assert "Traceback" not in ended.out + ended.err
    assert sum(line.startswith("Error: ") for line in said) == 1, ended.err
    assert case.sentence in ended.err
    assert ended.memory < MEMORY
    assert tree(tmp_path) == before, "something was made or changed"
    assert not Path("/tmp/evil").exists()  # noqa: S108


def test_there_are_at_least_forty() -> None:
    assert len({case.name for case in CASES}) == len(CASES) >= 40


RIGHT = {
    "16 bits": image("train/x.png", (72, 36), "I;16"),
    "CMYK": image("train/x.jpg", (72, 36), "CMYK"),
    "a name with a newline": image("train/a\nb.png", (72, 36)),
    "unicode": image("train/ö ' \" 雪.png", (72, 36)),
    "animated": lambda root: Image.new("RGB", (72, 36)).save(
        root / "train" / "x.webp", save_all=True, append_images=[Image.new("RGB", (72, 36), "red")]
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", RIGHT)
def test_odd_images_that_are_fine(name: str, tmp_path: Path) -> None:
    draw_pairs(tmp_path / "data", "train", 1, side=36)
    arguments = data(RIGHT[name])(tmp_path)
    result = CliRunner().invoke(main, [*arguments, "--dry-run"])
    assert result.exit_code == 0, result.output
    assert "train: 2 pairs" in result.output
