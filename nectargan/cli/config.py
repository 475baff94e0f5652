"""``nectargan config``: lists, shows, compares and explains configs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nectargan.cli.common import Command
from nectargan.cli.paths import OUTPUT, ConfigPath
from nectargan.output import make_console, say

if TYPE_CHECKING:
    from nectargan.config.reference import Key
    from nectargan.config.schema import Config

_CONFIG = ConfigPath()


@click.group()
def config() -> None:
    """Show and compare configs, and explain their keys.

    CONFIG is a JSON or YAML file, or the name of a config that comes with NectarGAN.
    """


@config.command(
    "list", cls=Command, examples=("nectargan config list", "nectargan config show maps")
)
def list_configs() -> None:
    """List the configs that come with NectarGAN."""
    from rich.table import Table

    from nectargan.config.config_manager import load_config
    from nectargan.config.shipped import shipped_configs

    table = Table("config", "data", "objective", "image size", "batch", "epochs")
    for name in shipped_configs():
        table.add_row(name, *_summary(load_config(name)))
    make_console().print(table)


def _summary(config: Config) -> list[str]:
    size = config.dataloader.load.crop_size
    sides = [size, size] if isinstance(size, int) else size
    return [
        config.dataloader.dataroot,
        config.train.objective,
        " x ".join(map(str, sides)),
        str(config.dataloader.batch_size),
        str(config.train.epochs),
    ]


@config.command(
    cls=Command,
    examples=(
        "nectargan config show facades > mine.json",
        "nectargan config show facades --all --format yaml",
    ),
)
@click.argument("config", type=_CONFIG)
@click.option("--all", "everything", is_flag=True, help="Include all defaults.")
@click.option(
    "--format", "form", type=click.Choice(["json", "yaml"]), default="json", help="Output format."
)
def show(config: str, everything: bool, form: str) -> None:
    """Print the options that CONFIG sets, or all options with --all."""
    from nectargan.config.config_manager import load_config
    from nectargan.config.documents import read_document
    from nectargan.config.migration import migrate

    if everything:
        document = load_config(config).model_dump(mode="json")
    else:
        document = migrate(read_document(config)[0])
    say(_formatted(document, form), nl=False)


def _formatted(document: dict[str, Any], form: str) -> str:
    if form == "json":
        return json.dumps(document, indent=4, ensure_ascii=False) + "\n"
    import yaml

    return yaml.safe_dump(document, sort_keys=False, allow_unicode=True)


@config.command(
    cls=Command,
    examples=(
        "nectargan config diff facades facades_scheduled",
        "nectargan config diff facades runs/first_v1/config.json",
    ),
)
@click.argument("a", type=_CONFIG)
@click.argument("b", type=_CONFIG)
def diff(a: str, b: str) -> None:
    """Print the options in which two configs differ, including defaults."""
    from rich.table import Table

    from nectargan.config.config_manager import load_config
    from nectargan.config.dotted import dotted

    one, other = dotted(load_config(a)), dotted(load_config(b))
    table = Table("", a, b)
    for key in {**one, **other}:
        if key not in one or key not in other or one[key] != other[key]:
            table.add_row(
                key, *(_value_text(each[key]) if key in each else "" for each in (one, other))
            )
    if table.rows:
        make_console().print(table)
    else:
        say(f"{a} and {b} do not differ.")


def _value_text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _complete_key(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    from nectargan.config.reference import all_keys

    return [key for key in all_keys() if key.startswith(incomplete)]


@config.command(
    cls=Command,
    examples=("nectargan config explain train.loss", "nectargan config explain common.precision"),
)
@click.argument("key", default="", shell_complete=_complete_key)
def explain(key: str) -> None:
    """Print the meaning, type, bounds and default of KEY; for a section, its keys."""
    from nectargan.config import reference

    _print_key(reference.explain_key(key))


def _print_key(key: Key) -> None:
    from rich.table import Table

    if key.key:
        say("\n    ".join(filter(None, [key.key, key.text])))
        say("    Type:    " + "\n             or ".join(key.types))
    if key.default:
        say(f"    Default: {key.default}")
    names = [below for below in key.below if below.key.endswith(".NAME")]
    for name in names:
        _print_key(name)
    if key.below and not names:
        table = Table("key", "default", "")
        for below in key.below:
            is_section = bool(below.below) and not below.default
            default = "section" if is_section else below.default
            table.add_row(below.key.rpartition(".")[2], default, below.text)
        make_console().print(table)


@config.command(
    cls=Command,
    examples=(
        "nectargan config schema -o nectargan.schema.json",
        "nectargan config schema | less",
    ),
)
@click.option("-o", "--output", type=OUTPUT, help="File to write.  [default: standard output]")
def schema(output: Path | None) -> None:
    """Print the JSON Schema of a config. Editors use it to complete and check configs.

    \b
    YAML files name the schema in their first line (VS Code with the YAML extension, and others):
      # yaml-language-server: $schema=nectargan.schema.json
    JSON files name it with a key:
      "$schema": "nectargan.schema.json"
    """
    from nectargan.config.reference import json_schema
    from nectargan.errors import RunError
    from nectargan.files import is_stream, replacing

    text = json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n"
    if output is None or str(output) == "-":
        say(text, nl=False)
        return
    try:
        with replacing(output, or_stream=True) as part:
            part.write_text(text, encoding="utf-8")
    except OSError as error:
        raise RunError(f"'{output}' cannot be written: {error.strerror}.") from None
    say(f"Wrote {output}.", err=is_stream(output))
