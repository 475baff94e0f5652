from __future__ import annotations

from collections.abc import Sequence

import nectargan
from tools.api_page import PAGE, markdown, page, signature


def test_the_page_is_that_of_the_docstrings() -> None:
    written = PAGE.read_text(encoding="utf-8")
    assert written == page(), "run: python tools/api_page.py"


def test_every_name_has_an_entry() -> None:
    headings = [line[3:] for line in page().splitlines() if line.startswith("## ")]
    assert headings == [name for name in nectargan.__all__ if name != "__version__"]


def test_sections_become_lists_and_literal_blocks_code() -> None:
    doc = """Does it::

    do(x)

Args:
    x: A number,
        in pixels.
    **rest: Passed on.

Returns:
    The same as ``x``.

Raises:
    ValueError: it is below 0."""
    assert (
        markdown(doc)
        == """Does it:

```text
do(x)
```

**Args**

- `x`: A number, in pixels.
- `**rest`: Passed on.

**Returns**

The same as `x`.

**Raises**

- `ValueError`: it is below 0."""
    )


def test_a_long_signature_has_a_line_for_each_parameter() -> None:
    def short(x: int, *, y: str = "a") -> bool:
        return bool(x or y)

    def much_longer(
        first_parameter: Sequence[str], *others: float, last_parameter: str | None = None
    ) -> dict[str, str]:
        return dict.fromkeys(first_parameter, f"{others}{last_parameter}")

    assert signature(short, "short") == "short(x: int, *, y: str = 'a') -> bool"
    assert signature(much_longer, "much_longer").splitlines() == [
        "much_longer(",
        "    first_parameter: Sequence[str],",
        "    *others: float,",
        "    last_parameter: str | None = None,",
        ") -> dict[str, str]",
    ]
