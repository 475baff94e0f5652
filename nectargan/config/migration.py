"""Converts configs of NectarGAN v0.2.3. No other module knows the old layout."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

# v0.2.3 named the weights by the kind of loss; here they have the registered name of the loss.
_LOSS_NAMES = {
    "lambda_gan": "G_GAN",
    "lambda_l1": "G_L1",
    "lambda_l2": "G_L2",
    "lambda_sobel": "G_SOBEL",
    "lambda_laplacian": "G_LAP",
    "lambda_vgg": "G_VGG",
}
_EXTENDED = ("lambda_l2", "lambda_sobel", "lambda_laplacian")
# Losses with a different formula here. They keep the old one, because the weight was tuned for it.
_OLD_FUNCTIONS = {
    "lambda_sobel": "nectargan.losses.v023.GreySobelLoss",
    "lambda_laplacian": "nectargan.losses.v023.GreyLaplacianLoss",
    "lambda_vgg": "nectargan.losses.v023.ShallowVGGLoss",
}
_DEFAULT_LAYERS = 3
_AS_THERE = (
    ("generator", "padding", "reflect"),
    ("discriminator", "padding", "reflect"),
    ("discriminator", "init", "default"),
)

Warn = Callable[[str], None]


def migrate(document: dict[str, Any]) -> dict[str, Any]:
    """Converts a config document of v0.2.3 to the current schema.

    A document of the current schema is returned unchanged. Each change of meaning is reported by a
    `UserWarning`. The values are not validated.
    """
    wrapped = set(document) == {"config"} and isinstance(document["config"], dict)
    if not wrapped and not _has_old_keys(document):
        return document
    old: dict[str, Any] = copy.deepcopy(document["config"] if wrapped else document)
    for change in (_losses, _networks, _layers, _resume, _devices, _empty_paths, _visualizer):
        change(old, lambda message: warnings.warn(f"v0.2.3 config: {message}", stacklevel=6))
    return old


def _has_old_keys(document: dict[str, Any]) -> bool:
    loss = _section(document, "train", "loss")
    return "visualizer" in document or any(name in loss for name in _LOSS_NAMES)


def _section(document: dict[str, Any], *names: str) -> dict[str, Any]:
    """A section of a document; empty if it is missing or is not a mapping."""
    for name in names:
        document = document.get(name, {})
        if not isinstance(document, dict):
            return {}
    return document


def _losses(old: dict[str, Any], warn: Warn) -> None:
    loss, train = _section(old, "train", "loss"), _section(old, "train")
    used = [name for name in _LOSS_NAMES if loss.get(name) not in (None, 0, 0.0)]
    if train and "objective" not in train and any(name in loss for name in _LOSS_NAMES):
        objective = "extended" if any(name in used for name in _EXTENDED) else "basic"
        train["objective"] = objective + ("+vgg" if "lambda_vgg" in used else "")
        warn(f"train.objective is '{train['objective']}', because of the weights that are not 0")
    for old_name, name in _LOSS_NAMES.items():
        if old_name in loss:
            weight = loss.pop(old_name)
            notice = f"train.loss.{old_name} is now train.loss.{name} ({weight})"
            if old_name in used and old_name in _OLD_FUNCTIONS:
                function = _OLD_FUNCTIONS[old_name]
                loss[name] = {"function": function, "weight": weight}
                notice += f", computed as in v0.2.3 by {function}"
            else:
                loss[name] = weight
            warn(notice)


def _networks(old: dict[str, Any], warn: Warn) -> None:
    """Adds the defaults of v0.2.3: both images have input_nc channels, convolutions use reflection
    padding, and the discriminator uses torch's default initialization."""
    load = _section(old, "dataloader", "load")
    if "input_nc" in load:
        load.setdefault("output_nc", load["input_nc"])
    train = old.setdefault("train", {})
    for name, key, value in _AS_THERE:
        network = train.setdefault(name, {}) if isinstance(train, dict) else None
        if isinstance(network, dict):
            warn(f"train.{name}.{key} is '{network.setdefault(key, value)}', as in v0.2.3")
    warn("the generator differs slightly: its activations now come before the convolutions")


def _layers(old: dict[str, Any], warn: Warn) -> None:
    """Converts n_layers, which in v0.2.3 also counted a layer with stride 1."""
    network = _section(old, "train").get("discriminator")
    layers = network.get("n_layers", _DEFAULT_LAYERS) if isinstance(network, dict) else None
    if not isinstance(network, dict) or type(layers) is not int or layers < 0:
        return  # the schema will reject the value
    network["n_layers"] = max(1, layers - 1)
    if layers > 1:
        side = 18 * 2 ** (layers - 2) - 2
        notice = f"it sees the same patches of {side} x {side} pixels"
    else:
        notice = "it sees patches of 16 x 16 pixels instead of 10 x 10"
    warn(f"train.discriminator.n_layers {layers} is now {network['n_layers']}: {notice}")


def _resume(old: dict[str, Any], warn: Warn) -> None:
    load = _section(old, "train").pop("load", None)
    if isinstance(load, dict) and load.get("continue_train"):
        warn("train.load (continue_train) is ignored: this starts a new run")


def _devices(old: dict[str, Any], warn: Warn) -> None:
    common = _section(old, "common")
    ids = common.pop("gpu_ids", None)
    if not ids or common.get("device") != "cuda" or not isinstance(ids, list):
        return
    if ids[0] != 0:
        common["device"] = f"cuda:{ids[0]}"
    if len(ids) > 1:
        warn(f"common.gpu_ids {ids} is ignored: a run uses one device, {common['device']}")


def _empty_paths(old: dict[str, Any], warn: Warn) -> None:
    """Removes an empty output directory, so that the default is used."""
    if _section(old, "common").get("output_directory") == "":
        del old["common"]["output_directory"]


def _visualizer(old: dict[str, Any], warn: Warn) -> None:
    if "visualizer" in old:
        del old["visualizer"]
        warn("visualizer is ignored: losses are shown by TensorBoard and MLflow (see logging)")
