"""Writes the results of benchmarks to docs/performance.md, one section for each.

python tools/performance_page.py figures.json more_figures.json
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import click

PAGE = Path(__file__).parents[1] / "docs" / "performance.md"


def section(document: dict[str, Any]) -> tuple[str, str]:
    """The title and the Markdown of a benchmark's JSON file.

    The title has the tool, the selected groups and the kind of machine. A later run with the same
    title replaces the section.
    """
    machine, rows = document["machine"], document["rows"]
    tool = re.sub(r".*?(\w+)\.py.*", r"\1", machine["command"])
    command = re.sub(r" --json \S+", "", machine["command"])
    parts = "".join(
        re.findall(r" (?:--contended|--seams|--(?:group|large) \S+|--only [^-]+\b)", command)
    )
    title = f"{tool}{parts} on {machine['gpu'] or str(machine['cores']) + ' CPU cores'}"
    lines = [
        f"### {title}",
        "",
        f"{machine['date']}, {machine['cpu']}, {machine['cores']} cores, {machine['ram_gib']} GiB"
        + (f", {machine['gpu']}" if machine["gpu"] else "")
        + f", Python {machine['python']}, torch {machine['torch']}. Command:",
        "",
        f"    {command}",
        "",
    ]
    lines += _table_of_checks(document.get("checks", []))
    lines += _table_of_rows(rows)
    notes = {text for row in rows for text in row["details"].values() if isinstance(text, str)}
    lines += ["", *(f"- {note}" for note in sorted(notes))]
    reasons = {reason for _, reason in _left_out(document)}
    for reason in sorted(reasons):
        names = "; ".join(name for name, why in _left_out(document) if why == reason)
        lines += ["", f"Not measured, {reason}: {names}."]
    return title, "\n".join(lines).rstrip() + "\n"


def _table_of_checks(checks: list[dict[str, Any]]) -> list[str]:
    """A table of the checks of `gpu_checks`."""
    if not checks:
        return []
    lines = ["| tried | result | seconds | |", "|---|---|---|---|"]
    for each in checks:
        status = f"**{each['status']}**" if each["status"] == "failed" else each["status"]
        note = each["note"].replace("|", "\\|")
        lines.append(f"| {each['name']} | {status} | {each['seconds']:.0f} | {note} |")
    return [*lines, ""]


def _table_of_rows(rows: list[dict[str, Any]]) -> list[str]:
    """A table of the rows."""
    if not rows:
        return []
    numbers = {k for row in rows for k, v in row["details"].items() if not isinstance(v, str)}
    extra = sorted(numbers)
    head = ["", "median", "low to high", "unit", "ratio", "limit", "", *extra]
    lines = [
        "| " + " | ".join(name.replace("_", " ") for name in head) + " |",
        "|" + "---|" * len(head),
    ]
    for row in rows:
        cells = [
            row["name"],
            f"{row['median']:.4g}",
            f"{row['low']:.4g} to {row['high']:.4g}",
            row["unit"],
            "" if row["ratio"] is None else f"{row['ratio']:.3f}",
            "" if row["limit"] is None else f"{row['limit']:.3g}",
            {True: "met", False: "**missed**", None: ""}[row["met"]],
            *(f"{row['details'][key]:.4g}" if key in row["details"] else "" for key in extra),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def _left_out(document: dict[str, Any]) -> list[tuple[str, str]]:
    return [(each["name"], each["reason"]) for each in document["left_out"]]


def put(page: str, title: str, text: str) -> str:
    """``page`` with the section of that title replaced, or added at the end."""
    begin, end = f"<!-- figures: {title} -->\n", "<!-- end of figures -->\n"
    before, found, rest = page.partition(begin)
    after = rest.partition(end)[2] if found else ""
    return before.rstrip("\n") + "\n\n" + begin + text + end + after


@click.command()
@click.argument("figures", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--page", type=click.Path(path_type=Path), default=PAGE, help="The page to change.")
def main(figures: tuple[Path, ...], page: Path) -> None:
    """Write results to docs/performance.md."""
    text = page.read_text(encoding="utf-8")
    for path in figures:
        text = put(text, *section(json.loads(path.read_text(encoding="utf-8"))))
    page.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
