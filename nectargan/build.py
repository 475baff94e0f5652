"""Builds networks, optimizers and losses from a config; `build_data` builds the rest.

These are the only modules that turn a config into objects.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from nectargan.config.balancing_options import BalancerConfig
from nectargan.config.loss_options import LossTerm, ScheduleConfig, ShareConfig, weight_of
from nectargan.config.network_options import Discriminator, Generator, OwnNetwork
from nectargan.config.objectives import ADVERSARIAL, DISCRIMINATOR, OPTIONAL, PENALTY
from nectargan.config.run_schedules import loss_shares, usable
from nectargan.config.schema import Config
from nectargan.errors import ConfigError, LossError
from nectargan.imports import call_imported, import_path
from nectargan.losses.balancing import BALANCERS, Balancer, Share, ShareRule
from nectargan.losses.lm_data import LMLoss
from nectargan.losses.losses import FeatureMatchingLoss
from nectargan.losses.pix2pix_objective import pix2pix
from nectargan.losses.vgg import VGGPerceptualLoss
from nectargan.models.registry import DISCRIMINATORS, GENERATORS
from nectargan.scheduling.data import Schedule
from nectargan.tryout import try_balancer, try_discriminator, try_features, try_generator, try_loss
from nectargan.wording import one_line


def height_and_width(size: int | Sequence[int]) -> tuple[int, int]:
    """A size from the config, a number or a pair, as ``(height, width)`` in pixels."""
    return (size, size) if isinstance(size, int) else (size[0], size[1])


# --- networks ----------------------------------------------------------------------------------


def build_generator(config: Config) -> nn.Module:
    """Builds the generator on the CPU and checks it against the image size in ``dataloader``.

    Raises:
        ModelError: If the generator cannot take images of that size.
        ConfigError: If a custom generator cannot be imported, built or run.
    """
    options, load = config.train.generator, config.dataloader.load
    channels = {"input_nc": load.input_nc, "output_nc": load.output_nc}
    if isinstance(options, OwnNetwork):
        own = _own_network("train.generator", options, channels)
        try_generator(_place("generator", options), own, _shape(config), load.output_nc)
        return own
    return _checked(GENERATORS[options.name](**channels, **options.options()), config)


def build_discriminator(config: Config) -> nn.Module:
    """Builds the discriminator on the CPU and checks it against the image size in ``dataloader``.

    Raises:
        ModelError: If the discriminator cannot take images of that size.
        ConfigError: If a custom discriminator cannot be imported, built or run.
    """
    options, load = config.train.discriminator, config.dataloader.load
    channels = {"in_channels": load.input_nc + load.output_nc}
    if isinstance(options, OwnNetwork):
        own = _own_network("train.discriminator", options, channels)
        try_discriminator(_place("discriminator", options), own, _shape(config), load.output_nc)
        return own
    return _checked(DISCRIMINATORS[options.name](**channels, **options.options()), config)


def check_features(config: Config, discriminator: nn.Module) -> None:
    """Checks that a discriminator on the CPU returns features for the feature matching loss.

    Raises:
        ConfigError: If a custom discriminator does not.
    """
    options = config.train.discriminator
    if isinstance(options, OwnNetwork):
        channels = config.dataloader.load.output_nc
        try_features(_place("discriminator", options), discriminator, _shape(config), channels)


def _checked(network: nn.Module, config: Config) -> nn.Module:
    height, width = height_and_width(config.dataloader.load.crop_size)
    # Every network has this method; to mypy an attribute of a module may be a tensor.
    network.check_size(height, width)  # type: ignore[operator]
    return network


def _own_network(place: str, options: OwnNetwork, channels: dict[str, int]) -> nn.Module:
    found = import_module_class(f"{place}.function", options.function)
    taken = inspect.signature(found).parameters
    extra = {name: count for name, count in channels.items() if name in taken}
    network: nn.Module = call_imported(
        f"{place}.arguments", options.function, found, options.arguments, extra
    )
    return network


def _place(network: str, options: OwnNetwork) -> str:
    return f"train.{network}.function '{options.function}'"


def _shape(config: Config) -> tuple[int, int, int, int]:
    """The shape ``(N, C, H, W)`` of a batch to try a network on.

    N is 2 if the batches of the run are larger than 1, because batch norm may need two images.
    """
    load = config.dataloader.load
    batch = min(config.dataloader.batch_size, 2)
    return batch, load.input_nc, *height_and_width(load.crop_size)


def build_optimizer(
    network: nn.Module, options: Generator | Discriminator, lr: float, capturable: bool = False
) -> torch.optim.Adam:
    """Builds a fused Adam optimizer, which runs one kernel for all parameters.

    Args:
        network: The network, already on its device.
        options: The section of the config that describes the network.
        lr: Initial learning rate.
        capturable: Whether to keep the learning rate on the device too, as CUDA graph capture
            requires.
    """
    # Parameters that a custom network has frozen stay frozen.
    parameters = [each for each in network.parameters() if each.requires_grad]
    return torch.optim.Adam(
        parameters,
        lr=torch.tensor(lr, device=parameters[0].device) if capturable else lr,
        betas=(options.optimizer.beta1, options.optimizer.beta2),
        fused=True,
        capturable=capturable,
    )


def optimized_parameters(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """The parameters that an optimizer updates, in the order of its state dict."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


# --- losses ------------------------------------------------------------------------------------


def build_losses(config: Config) -> dict[str, LMLoss]:
    """Builds the losses of a run, in the form that `LossManager.init_from_spec` takes.

    Raises:
        ConfigError: If a term in ``train.loss`` cannot be used.
        CheckpointError: If the VGG19 weights cannot be read or downloaded.
    """
    train = config.train
    options = train.loss
    functions = {
        name: _build_function(name, option, config)
        for name, option in options.items()
        if isinstance(option, LossTerm) and option.function is not None
    }
    losses = pix2pix(
        train.objective,
        train.gan_mode,
        train.vgg_weights,
        config.dataloader.load.output_nc,
        functions,
        [name for name in OPTIONAL if name in options and name not in functions],
        train.label_smoothing,
        None if train.vgg_channels is None else [number - 1 for number in train.vgg_channels],
    )
    shares = loss_shares(config)
    for name, option in options.items():
        if name not in losses:
            losses[name] = LMLoss(name, functions[name], tags=["G"])
        if isinstance(option, LossTerm) and option.tags is not None:
            losses[name] = replace(losses[name], tags=option.tags)
        weight = weight_of(option)
        if isinstance(weight, ShareConfig):
            share = Share(shares[name], weight.smoothing, weight.min, weight.max)
            losses[name] = replace(losses[name], loss_weight=1.0, schedule=Schedule(), share=share)
        elif isinstance(weight, ScheduleConfig):
            schedule = usable(weight.build(), f"train.loss.{name}", train.epochs)
            losses[name] = replace(losses[name], schedule=schedule)
        else:
            losses[name] = replace(losses[name], loss_weight=weight, schedule=Schedule())
        if name == PENALTY:
            losses[name] = replace(losses[name], every=train.r1_every_n_steps)
        function = losses[name].function
        if isinstance(function, VGGPerceptualLoss):
            function.check_size(*height_and_width(config.dataloader.load.crop_size))
    return losses


def build_balancer(config: Config, losses: Mapping[str, LMLoss]) -> Balancer | None:
    """Builds the rule that sets the weights of the generator's losses; ``None`` if there is none.

    Args:
        config: The config.
        losses: The losses that were built from it.

    Raises:
        ConfigError: If the rule cannot be used.
    """
    names = [name for name in losses if name not in DISCRIMINATOR]
    shares = {n: losses[n].share for n in names}
    found = {name: share for name, share in shares.items() if isinstance(share, Share)}
    if found:
        return ShareRule(names, found)
    options = config.train.balancer
    if options is None:
        return None
    balancer = _make_balancer(options, names)
    try_balancer(f"train.balancer '{options.name or options.function}'", balancer)
    return balancer


def _make_balancer(options: BalancerConfig, losses: list[str]) -> Balancer:
    place, name = "train.balancer.arguments", options.name
    if name is not None:
        try:
            return BALANCERS[name](losses, **options.arguments)
        except LossError as error:
            raise ConfigError(f"train.balancer '{name}': {error}") from None
        except TypeError as error:
            raise ConfigError(
                f"{place} are {options.arguments}, which '{name}' refuses: {one_line(error)}."
            ) from None
    path = options.function or ""
    found = import_path("train.balancer.function", path)
    if not (isinstance(found, type) and issubclass(found, Balancer)):
        raise ConfigError(
            f"train.balancer.function is '{path}', which is not a class derived from "
            "nectargan.losses.balancing.Balancer."
        )
    balancer: Balancer = call_imported(place, path, found, options.arguments, {"losses": losses})
    return balancer


def _build_function(name: str, term: LossTerm, config: Config) -> nn.Module:
    function = _import_module(name, term, config.train.vgg_weights)
    load = config.dataloader.load
    shape = (1, load.output_nc, *height_and_width(load.crop_size))
    inputs: list[Any] = [torch.rand(shape, requires_grad=True), torch.rand(shape)]
    if isinstance(function, FeatureMatchingLoss):
        inputs = [[[images, images]] for images in inputs]  # one scale: a feature map and logits
    elif name in ADVERSARIAL:
        inputs = [torch.rand(1, 1, 4, 4, requires_grad=True)]
    try_loss(f"train.loss.{name}.function '{term.function}'", function, inputs)
    return function


def _import_module(name: str, term: LossTerm, vgg_weights: str | None) -> nn.Module:
    place, path = f"train.loss.{name}", term.function or ""
    found = import_module_class(f"{place}.function", path)
    extra = {"weights": vgg_weights} if getattr(found, "reads_vgg_weights", False) else {}
    module: nn.Module = call_imported(f"{place}.arguments", path, found, term.arguments, extra)
    return module


def import_module_class(place: str, path: str) -> type[nn.Module]:
    """Imports an `nn.Module` class.

    Args:
        place: The config key, for error messages.
        path: Import path, such as ``my_package.MyNet``.

    Raises:
        ConfigError: If it cannot be imported, or is not an `nn.Module` class.
    """
    found = import_path(place, path)
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        raise ConfigError(f"{place} is '{path}', which is not a torch.nn.Module class.")
    return found
