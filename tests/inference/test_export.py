"""What is exported does what the network does, at any size, or is not written."""

from __future__ import annotations

import importlib.util
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from nectargan import load_model
from nectargan.errors import CheckpointError, ConfigError, DataError, ExportError
from nectargan.inference.card import describe_training
from nectargan.inference.export import export_model
from nectargan.inference.export_files import export
from nectargan.inference.exported import Format
from nectargan.inference.model import Model
from nectargan.models.image_to_image import Values
from nectargan.models.norms import InstanceNorm2d
from nectargan.models.registry import GENERATORS
from nectargan.record.run_directory import RunDirectory
from nectargan.record.test_record import Measured, TestRecord, write_test

SIZES = ((1, 40), (7, 7), (33, 20), (64, 64))


@pytest.fixture
def model(trained: RunDirectory) -> Model:
    return load_model(trained, device="cpu", precision="fp32")


def images(count: int = 2, side: int = 32) -> Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("kind", "values", "precision"),
    [
        ("onnx", "float", "fp32"),
        ("onnx", "uint8", "fp16"),
        ("pt2", "uint8", "fp32"),
        ("pt2", "float", "fp16"),
        ("safetensors", "float", "fp32"),
        ("safetensors", "float", "fp16"),
    ],
)
def test_a_file_is_loaded_as_any_model(
    model: Model, kind: Format, values: Values, precision: str, tmp_path: Path
) -> None:
    path = tmp_path / f"mine.{kind}"
    told = export_model(model, path, kind, images(), values=values, precision=precision)
    assert 0 <= told.difference <= (1e-4 if precision == "fp32" else 1e-2)
    assert told.sizes == [(32, 32), (23, 22)]
    assert told.batches == [1, 2]
    loaded = load_model(path, device="cpu")
    assert (loaded.name, loaded.epoch, loaded.config) == ("mine", model.epoch, model.config)
    for height, width in SIZES:
        batch = torch.rand(3, 3, height, width) * 2 - 1
        made, wanted = loaded.generate(batch), model.generate(batch)
        assert made.dtype == torch.float32
        # In [-1, 1] twice as far apart; rounded once on the way in and once on the way out.
        rounding = 4 / 255 if values == "uint8" else 0
        assert (made - wanted).abs().max() <= 2 * told.difference + 1e-3 + rounding
    assert [each.name for each in tmp_path.iterdir()] == [path.name]


NETWORKS: list[tuple[str, dict[str, Any]]] = [
    ("unet", {"n_downs": 1, "upsample_type": "Bilinear", "padding": "reflect", "norm": "batch"}),
    (
        "unet",
        {"n_downs": 1, "upsample_type": "PixelShuffle", "block_type": "ResidualUnetBlock"},
    ),
    ("unet", {"n_downs": 2, "upsample_type": "Nearest"}),
    ("resnet", {"n_blocks": 1, "norm": "batch", "upsample_type": "Bilinear"}),
    ("pix2pixhd", {"n_blocks": 1, "n_downs": 3}),
]


@pytest.mark.parametrize(("name", "options"), NETWORKS)
def test_each_network_becomes_one_onnx_file_for_any_size(
    model: Model, name: str, options: dict[str, Any], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    network = GENERATORS[name](features=4, **options).eval()
    other = replace(
        model, network=network, forward=network, multiple=network.multiple,
        smallest=network.smallest,
    )  # fmt: skip
    path = tmp_path / "other.onnx"
    assert export_model(other, path, "onnx", images()).difference <= 1e-4
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for height, width in SIZES[1:]:
        given = torch.rand(1, 3, height, width)
        (made,) = session.run(None, {"images": given.numpy()})
        wanted = (other.generate(given * 2 - 1) + 1) / 2
        np.testing.assert_allclose(made, wanted, atol=1e-4)


def test_norms_over_many_even_pixels_are_as_exact_as_those_of_torch(
    model: Model, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 3, 1), InstanceNorm2d(3), nn.Tanh()).eval()
    path = tmp_path / "m.onnx"
    export_model(replace(model, network=network), path, "onnx", images())
    given = torch.full((1, 3, 256, 256), 0.1)
    given[..., 100:] = 0.77
    given[:, :, 60:] *= 0.9
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (made,) = session.run(None, {"images": given.numpy()})
    with torch.no_grad():
        exact = (network.double()(given.double() * 2 - 1) + 1) / 2
    # onnxruntime's own instance norm is off by 2e-4 here.
    assert np.abs(made - exact.numpy()).max() <= 5e-6


def test_the_metadata_is_inside(model: Model, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    export_model(model, path, "onnx", images(), extra={"license": "CC0-1.0"})
    onnx.checker.check_model(onnx.load(path))
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    told = session.get_modelmeta().custom_metadata_map
    assert json.loads(told["config"]) == model.config.model_dump(mode="json")
    assert told["range"] == "float32 in [0, 1]"
    assert told["license"] == "CC0-1.0"
    assert (told["input"], told["training_height"]) == ("(N, 3, H, W)", "32")
    (given,), (made,) = session.get_inputs(), session.get_outputs()
    assert given.shape == ["batch", 3, "height", "width"]
    assert made.shape[1] == 3
    # Nothing of the machine that it was made on, but what the config has.
    rest = path.read_bytes().replace(told["config"].encode(), b"")
    assert str(Path.cwd()).encode() not in rest


class _Drifts(nn.Module):
    """In an exported graph it is another network."""

    multiple, smallest = 4, 4

    def __init__(self, by: float = 0.03) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 3, 1)
        self.by = by

    def forward(self, x: Tensor) -> Tensor:
        shift = self.by if torch.compiler.is_compiling() else 0.0
        return torch.tanh(self.layer(x)) * 0.5 + shift


@pytest.mark.parametrize("kind", ["onnx", "pt2"])
def test_a_model_that_disagrees_is_not_written(model: Model, kind: Format, tmp_path: Path) -> None:
    path = tmp_path / f"m.{kind}"
    path.write_text("before")
    other = replace(model, network=_Drifts().eval())
    with pytest.raises(ExportError, match=r"differs from the network by 0\.015 on 1 image of 32 x"):
        export_model(other, path, kind, images())
    assert path.read_text() == "before"
    assert [each.name for each in tmp_path.iterdir()] == [path.name]
    # In 16 bits a little more is accepted.
    told = export_model(
        replace(other, network=_Drifts(0.015).eval()), path, kind, images(), precision="fp16"
    )
    assert 0.007 < told.difference < 0.009


class _Branches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) if x.mean() > 0 else x


def test_a_network_that_cannot_be_exported_is_one_sentence(model: Model, tmp_path: Path) -> None:
    other = replace(model, network=_Branches())
    with pytest.raises(ExportError, match="generator of 'tiny_v1' cannot be exported: "):
        export_model(other, tmp_path / "m.onnx", "onnx", images())
    assert list(tmp_path.iterdir()) == []


# --- the command's work --------------------------------------------------------------------------


def test_a_card_and_a_picture_go_beside_it(trained: RunDirectory, tmp_path: Path) -> None:
    made = export(trained, tmp_path / "out", kind="safetensors", license_name='CC "BY" | 4')
    assert made.file == tmp_path / "out" / "tiny_v1.safetensors"
    assert made.images.startswith("validation images of")
    assert {path.name for path in made.file.parent.iterdir()} == {
        *("tiny_v1.safetensors", "tiny_v1.safetensors.png", "README.md")
    }
    assert Image.open(made.picture).size == (3 * 34 - 2, 3 * 34 - 2)
    card = made.card.read_text("utf-8")
    assert card.startswith('---\nlicense: "CC \\"BY\\" | 4"\n')
    for title in ("Use", "Data", "Losses", "Training", "Metrics", "Licence", "Examples", "Config"):
        assert f"\n## {title}\n" in card
    facts = json.loads(trained.metadata.read_text("utf-8"))
    for data in facts["datasets"]:
        assert f"| {data['context']} | {data['name']} |" in card
        assert data["digest"] in card
    assert "| G_L1 | 100 |" in card
    values = {
        row.split(",")[3]: float(row.split(",")[4])
        for row in trained.metrics.read_text().splitlines()[1:]
        if row.split(",")[1] == str(load_model(trained).epoch)
    }
    assert f"| psnr | {values['val/psnr']:.4g} dB |" in card
    assert made.picture.name in card


def test_a_card_has_what_was_tested_of_this_epoch(trained: RunDirectory, tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "run")
    shutil.copytree(trained, run)
    epoch = load_model(run).epoch
    metrics = {"l1": Measured(0.12345, 0.1, 0.15, False), "fid": Measured(119.0, None, None, False)}
    for split, of in (("test", epoch), ("val", 99)):
        record = TestRecord(
            split=split, n=3, dataset="pairs", digest="abc", checkpoint="best.pt", epoch=of,
            size=(32, 32), resizer="", format="", dropout=False, protocol=None, seed=0,
            resamples=1000, weights={}, metrics=metrics, warnings=["Few images."],
        )  # fmt: skip
        write_test(run, record, [], {})
    card = describe_training(load_model(run).config, run, epoch)
    assert "| l1 | 0.1235 | 0.1 to 0.15 | lower |\n| fid | 119 |  | lower |" in card
    assert "Split test of pairs (digest abc), 3 images at 32 x 32, dropout off:" in card
    assert card.count("Few images.") == 1
    assert "measured in training" not in card


def test_the_code_in_a_card_runs(
    trained: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for kind, values in (("onnx", "uint8"), ("pt2", "float"), ("safetensors", None)):
        made = export(trained, f"m.{kind}", kind=kind, values=values)  # type: ignore[arg-type]
        code = made.card.read_text("utf-8").partition("```python\n")[2].partition("```")[0]
        names: dict[str, Any] = {}
        exec(compile(code, "card", "exec"), names)  # noqa: S102 - what we wrote ourselves
        assert names["generated"].shape == (1, 3, 32, 32)
    # The first card is that of its model for good.
    cards = sorted(path.name for path in tmp_path.glob("*.md"))
    assert cards == ["README.md", "m.pt2.md", "m.safetensors.md"]


def test_existing_files_are_kept(trained: RunDirectory, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("# Of my own")
    made = export(trained, tmp_path, kind="safetensors")
    assert made.card.name == "tiny_v1.safetensors.md"
    assert (tmp_path / "README.md").read_text() == "# Of my own"
    with pytest.raises(ExportError, match=r"tiny_v1.safetensors' exists already; add --overwrite"):
        export(trained, tmp_path, kind="safetensors")
    export(trained, tmp_path, kind="safetensors", overwrite=True)
    assert len(list(tmp_path.iterdir())) == 4


def test_missing_data_is_replaced_by_drawn_facades(
    trained: RunDirectory, pairs_root: Path, tmp_path: Path
) -> None:
    run = RunDirectory(tmp_path / "run")
    shutil.copytree(trained, run)
    checkpoint = torch.load(run.best_checkpoint, weights_only=True)
    checkpoint["config"]["dataloader"]["dataroot"] = str(tmp_path / "gone")
    torch.save(checkpoint, run.best_checkpoint)
    made = export(run, tmp_path / "m.safetensors", kind="safetensors")
    assert made.images.startswith("drawn fronts")
    newest = max(run.examples.glob("*.png"))
    assert made.picture.read_bytes() == newest.read_bytes()
    again = export(run, tmp_path / "n.safetensors", kind="safetensors", data=pairs_root)
    assert str(pairs_root) in again.images
    with pytest.raises(DataError):
        export(run, tmp_path / "o.safetensors", kind="safetensors", data=tmp_path / "none")
    assert not (tmp_path / "o.safetensors").exists()


def test_what_is_wrong_is_told_in_a_sentence(
    trained: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = export(trained, tmp_path / "m.onnx").file
    (tmp_path / "file").touch()
    for options, told in [
        ({"output": tmp_path / "m.pt2"}, "suffix of another format; a onnx file ends in .onnx"),
        ({"output": tmp_path / "file"}, "is a file; give a folder, or a file whose name ends in"),
        ({"kind": "safetensors", "values": "float"}, "weights alone"),
        ({"kind": "tflite"}, "format is 'tflite'; allowed: onnx, pt2, safetensors"),
        ({"source": made, "output": tmp_path / "n.onnx"}, "is an exported model already; name the"),
    ]:
        with pytest.raises(ExportError, match=told):
            export(**{"source": trained, **options})  # type: ignore[arg-type]
    for suffix in ("onnx", "pt2", "safetensors"):
        damaged = tmp_path / f"damaged.{suffix}"
        damaged.write_bytes(made.read_bytes()[:1000])
        with pytest.raises(CheckpointError, match=rf"damaged\.{suffix}' cannot be read"):
            load_model(damaged)
    foreign = onnx.load(made)
    del foreign.metadata_props[:]
    onnx.save(foreign, tmp_path / "foreign.onnx")
    with pytest.raises(CheckpointError, match="was not written by nectargan export"):
        load_model(tmp_path / "foreign.onnx")
    for more, told in [
        ({"dropout": True}, "has no dropout"),
        ({"precision": "bf16"}, "was exported to compute in fp32"),
        ({"device": "gpu"}, "device is 'gpu'; allowed"),
    ]:
        with pytest.raises(ConfigError, match=told):
            load_model(made, **more)  # type: ignore[arg-type]
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *_: None if "onnx" in name else real(name)
    )
    with pytest.raises(ExportError, match=r"onnxruntime.*pip install 'nectargan\[export\]'"):
        export(trained, tmp_path / "o.onnx")
    with pytest.raises(ExportError, match=r"pip install 'nectargan\[export\]'"):
        load_model(made)
