"""Writes docs/api.md, the public API, from the docstrings.

python tools/api_page.py
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nectargan

PAGE = Path(__file__).parents[1] / "docs" / "api.md"

_HEAD = """# Public API

<!-- Written by tools/api_page.py from the docstrings; do not edit. -->

These names can be imported from `nectargan`; other modules may change between versions. Importing
the package loads none of them: each is loaded when it is first used.
"""
_SECTION = re.compile(r"(Args|Attributes|Returns|Raises|Yields):$")
_ENTRY = re.compile(r"(\*{0,2}[\w.]+): (.*)")


def page() -> str:
    """The text of the page."""
    names = [name for name in nectargan.__all__ if not name.startswith("_")]
    contents = "\n".join(f"- [`{name}`](#{name.lower()}): {_summary(name)}" for name in names)
    return "\n".join([_HEAD, contents, "", *map(_entry, names)]).rstrip() + "\n"


def _summary(name: str) -> str:
    first = markdown(inspect.getdoc(getattr(nectargan, name)) or "").split("\n\n")[0]
    return " ".join(first.split()).rstrip(":")


def _entry(name: str) -> str:
    value = getattr(nectargan, name)
    parts = [f"## {name}"]
    if inspect.isclass(value) and (issubclass(value, Exception) or hasattr(value, "model_fields")):
        parts += [f"`{value.__module__}.{name}`"]
    else:
        parts += [f"```text\n{signature(value, name)}\n```"]
    parts += [markdown(inspect.getdoc(value) or "")]
    if inspect.isclass(value):
        for method, function in _methods(value):
            kind = "" if callable(function) else "Property. "
            title = f"{name}.{method}"
            shown = signature(function, title, is_method=True) if callable(function) else title
            parts += [f"### {title}", f"```text\n{shown}\n```" if callable(function) else ""]
            parts += [kind + markdown(inspect.getdoc(function) or "")]
    return "\n\n".join(part for part in parts if part) + "\n"


def _methods(value: type) -> Iterator[tuple[str, Any]]:
    """The public methods and properties of a class and of its bases in this package."""
    ours = [each for each in value.__mro__ if each.__module__.startswith("nectargan.")]
    members = {name: member for base in reversed(ours) for name, member in vars(base).items()}
    for name, member in members.items():
        if not name.startswith("_") and (
            inspect.isfunction(member) or isinstance(member, (property, classmethod))
        ):
            yield name, getattr(value, name) if isinstance(member, classmethod) else member


def signature(value: Any, title: str, is_method: bool = False) -> str:
    """The signature in one line, or with one parameter per line if that is too long."""
    found = inspect.signature(value)
    shown = list(_parameters(list(found.parameters.values())[is_method:]))
    returns = found.return_annotation
    has_result = returns is not inspect.Signature.empty and not inspect.isclass(value)
    end = f" -> {_annotation(returns)}" if has_result else ""
    line = f"{title}({', '.join(shown)}){end}"
    if len(line) <= 100:
        return line
    return "\n".join([f"{title}(", *(f"    {each}," for each in shown), f"){end}"])


def _parameters(parameters: list[inspect.Parameter]) -> Iterator[str]:
    has_star = False
    for each in parameters:
        if each.kind is inspect.Parameter.KEYWORD_ONLY and not has_star:
            yield "*"
        has_star |= each.kind in (each.KEYWORD_ONLY, each.VAR_POSITIONAL)
        text = each.name
        if each.kind in (each.VAR_POSITIONAL, each.VAR_KEYWORD):
            text = ("*" if each.kind is each.VAR_POSITIONAL else "**") + text
        if each.annotation is not each.empty:
            text += f": {_annotation(each.annotation)}"
        if each.default is not each.empty:
            text += f" = {_default(each.default)}"
        yield text


def _annotation(annotation: Any) -> str:
    # The fields of a NamedTuple are wrapped.
    text = getattr(annotation, "__forward_arg__", annotation)
    return text if isinstance(text, str) else inspect.formatannotation(text)


def _default(value: Any) -> str:
    text = repr(value)
    return "..." if text.startswith("<") else text  # made anew for each object


def markdown(doc: str) -> str:
    """Converts a Google-style docstring to Markdown: sections become lists, literal blocks become
    code blocks."""
    blocks: list[str] = []
    title = ""
    for lines in _blocks(doc.replace("``", "`").splitlines()):
        match = _SECTION.match(lines[0])
        if match:
            title, lines = match[1], [line[4:] for line in lines[1:]]
            blocks.append(f"**{title}**")
        elif not lines[0].startswith(" "):
            title = ""
        if title in ("Args", "Attributes", "Raises"):
            blocks.append("\n".join(_list(_dedented(lines))))
        elif lines[0].startswith("===") or (not title and lines[0].startswith("    ")):
            blocks.append("\n".join(["```text", *_dedented(lines), "```"]))
        else:
            blocks.append("\n".join(_dedented(lines)))
    return re.sub(r"::$", ":", "\n\n".join(blocks), flags=re.MULTILINE)


def _blocks(lines: list[str]) -> Iterator[list[str]]:
    """The paragraphs; blank lines also split literal blocks."""
    block: list[str] = []
    for line in [*lines, ""]:
        if line.strip():
            block.append(line)
        elif block:
            yield block
            block = []


def _dedented(lines: list[str]) -> list[str]:
    margin = min(len(line) - len(line.lstrip()) for line in lines)
    return [line[margin:] for line in lines]


def _list(lines: list[str]) -> Iterator[str]:
    """Formats ``name: text`` entries as a list; the lines of an entry are joined."""
    entries: list[str] = []
    for line in lines:
        if line.startswith(" ") and entries:
            entries[-1] += " " + line.strip()
        else:
            entries.append(line)
    for entry in entries:
        match = _ENTRY.match(entry)
        yield f"- `{match[1]}`: {match[2]}" if match else f"- {entry}"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(f"Wrote {PAGE}.")
