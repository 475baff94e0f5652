"""Files that `nectargan.inference.export` wrote: what is noted in them, and how they are run."""

from __future__ import annotations

import importlib.util
import json
import logging
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

import torch
from torch import Tensor

from nectargan.dataset.paired_dataset import denormalize, normalize
from nectargan.errors import CheckpointError, ConfigError, ExportError
from nectargan.files import open_regular
from nectargan.wording import one_line

Format = Literal["onnx", "pt2", "safetensors"]

IMAGE_SUFFIXES: dict[str, Format] = {".onnx": "onnx", ".pt2": "pt2", ".safetensors": "safetensors"}
METADATA_FILE = "nectargan.json"
"""Where a ``.pt2`` has its metadata."""
INPUT, OUTPUT = "images", "generated"
"""Names of the input and the output of an ONNX model."""
_MOST_METADATA = 4_000_000


class Exported(NamedTuple):
    """An exported model, ready to be run.

    Attributes:
        metadata: What is noted in the file; see `nectargan.inference.export.metadata_of`.
        config: The config that it was trained with.
        device: Where it computes.
        forward: Maps ``(N, C, H, W)`` of any size to generated images, both float32 in [-1, 1].
        run: The same on the values that the file takes and makes.
        values: See `ValueMappings.to_dict`; ``None`` for plain 8-bit images.
    """

    metadata: Mapping[str, str]
    config: Mapping[str, Any]
    device: torch.device
    forward: Callable[[Tensor], Tensor]
    run: Callable[[Tensor], Tensor]
    values: dict[str, Any] | None = None


def open_exported(path: Path, kind: Format, device: torch.device | None = None) -> Exported:
    """Opens an ONNX model with onnxruntime, or a ``.pt2`` with torch.

    torch reads a ``.pt2`` with pickle, which can run code: only those of people one trusts are to
    be opened.

    Args:
        path: The file.
        kind: "onnx" or "pt2".
        device: Where to compute; without one, an ONNX model runs on CUDA where onnxruntime has it,
            and all else on the CPU.

    Raises:
        CheckpointError: it cannot be read, or `nectargan export` did not write it.
        ConfigError: it cannot run on this device.
        ExportError: onnxruntime is not installed.
    """
    _require_readable(path)
    metadata, where, run = (_open_onnx if kind == "onnx" else _open_pt2)(path, device)
    config = _config_of(metadata, path)
    is_uint8 = metadata.get("values") == "uint8"

    def forward(batch: Tensor) -> Tensor:
        if is_uint8:
            return normalize(run(denormalize(batch)))
        return run((batch + 1) / 2) * 2 - 1

    return Exported(metadata, config, where, forward, run, _mappings_of(metadata, path))


def read_safetensors(path: Path) -> dict[str, Any]:
    """An exported safetensors file, as what `nectargan.runs.checkpoint.load_checkpoint` returns for
    a checkpoint, with the generator alone.

    Raises:
        CheckpointError: see `open_exported`.
    """
    from safetensors import SafetensorError, safe_open

    _require_readable(path)
    try:
        with safe_open(path, framework="pt") as file:
            metadata = dict(file.metadata() or {})
            # It is no dict, and cannot be iterated over itself.
            weights = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise _unreadable(path, error) from None
    return {
        "config": _config_of(metadata, path),
        "epoch": epoch_of(metadata),
        "values": _mappings_of(metadata, path),
        "networks": {"generator": weights},
    }


def _config_of(metadata: Mapping[str, str], path: Path) -> dict[str, Any]:
    """The config in the metadata of a file; raises `CheckpointError` if there is none."""
    try:
        config = json.loads(metadata["config"])
    except (KeyError, ValueError):
        config = None
    if not isinstance(config, dict):
        raise CheckpointError(f"'{path}' was not written by nectargan export: it has no config.")
    return config


def _mappings_of(metadata: Mapping[str, str], path: Path) -> dict[str, Any] | None:
    """The value mappings in the metadata of a file; ``None`` if there are none."""
    try:
        found = json.loads(metadata.get("value_mappings", "null"))
    except ValueError:
        found = "damaged"
    if found is not None and not isinstance(found, dict):
        raise CheckpointError(f"'{path}' cannot be read: its value mappings are damaged.")
    return found


def epoch_of(metadata: Mapping[str, str]) -> int | None:
    """How many epochs a model was trained for, where that is known."""
    text = metadata.get("epoch", "")
    return int(text) if text.isdecimal() else None


def require_packages(*names: str) -> None:
    """Raises `ExportError` unless these packages are installed."""
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    if missing:
        raise ExportError(
            f"ONNX needs {' and '.join(missing)}; install it with: pip install 'nectargan[export]'"
        )


@contextmanager
def quiet() -> Iterator[None]:
    """Keeps what torch's exporter and reader say about themselves from the user."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


_Opened = tuple[Mapping[str, str], torch.device, Callable[[Tensor], Tensor]]


def _open_onnx(path: Path, device: torch.device | None) -> _Opened:
    require_packages("onnxruntime")
    import onnxruntime

    has_cuda = "CUDAExecutionProvider" in onnxruntime.get_available_providers()
    if device is not None and device.type != "cpu" and not (device.type == "cuda" and has_cuda):
        raise ConfigError(
            f"device is '{device}', but the onnxruntime that is installed runs ONNX models on the "
            "CPU only; for CUDA, install onnxruntime-gpu."
        )
    providers: list[Any] = ["CPUExecutionProvider"]
    if has_cuda and (device is None or device.type == "cuda"):
        index = 0 if device is None else device.index or 0
        providers.insert(0, ("CUDAExecutionProvider", {"device_id": index}))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=providers)
    except Exception as error:
        # It has exceptions of its own for each of its many complaints, without a common base.
        raise _unreadable(path, error) from None

    def run(images: Tensor) -> Tensor:
        (generated,) = session.run([OUTPUT], {INPUT: images.cpu().contiguous().numpy()})
        return torch.from_numpy(generated)

    metadata = cast("Mapping[str, str]", session.get_modelmeta().custom_metadata_map)
    return metadata, torch.device("cpu"), run


def _open_pt2(path: Path, device: torch.device | None) -> _Opened:
    metadata = _metadata_of_pt2(path)
    _config_of(metadata, path)  # before torch reads it
    where = device or torch.device("cpu")
    try:
        with quiet():
            program = torch.export.load(path)
            if where.type != "cpu":
                from torch.export.passes import move_to_device_pass

                program = move_to_device_pass(program, where)
            module = program.module()
    except Exception as error:
        # A damaged file can raise anything in there.
        raise _unreadable(path, error) from None

    def run(images: Tensor) -> Tensor:
        with torch.no_grad():
            generated: Tensor = module(images.to(where))
        return generated

    return metadata, where, run


def _metadata_of_pt2(path: Path) -> dict[str, str]:
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if name.endswith(f"/{METADATA_FILE}")]
            if not names or archive.getinfo(names[0]).file_size > _MOST_METADATA:
                return {}
            found = json.loads(archive.read(names[0]))
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise _unreadable(path, error) from None
    return {str(key): str(value) for key, value in dict(found).items()}


def _require_readable(path: Path) -> None:
    try:
        open_regular(path).close()
    except OSError as error:
        raise CheckpointError(f"'{path}' cannot be read: {error.strerror}.") from None


def _unreadable(path: Path, error: Exception) -> CheckpointError:
    return CheckpointError(f"'{path}' cannot be read, it may be damaged: {one_line(error)[:200]}")
