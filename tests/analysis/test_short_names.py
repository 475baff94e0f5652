from __future__ import annotations

import pytest

from nectargan.analysis.short_names import distinct_parts, short_keys


@pytest.mark.parametrize(
    ("names", "pattern", "parts"),
    [
        (["fronts_v1", "fronts_v12"], "fronts_…", ["v1", "v12"]),
        (["a/x_v1", "b/x_v1"], "…/x_v1", ["a", "b"]),
        (["l1-a_v1", "l1-b_v1"], "l1-…_v1", ["a", "b"]),
        (["x_v1", "x_v1_b"], "x_…", ["v1", "v1_b"]),
        (["v1", "v12"], "", ["v1", "v12"]),
        (["a_", "a_b"], "", ["a_", "a_b"]),
        (["alone_v1"], "", ["alone_v1"]),
        (["same_v1", "same_v1"], "", ["same_v1", "same_v1"]),
    ],
)
def test_what_differs_in_names(names: list[str], pattern: str, parts: list[str]) -> None:
    assert distinct_parts(names) == (pattern, parts)


def test_keys_are_as_short_as_they_can_be() -> None:
    keys = ["common.seed", "train.generator.lr", "train.discriminator.lr", "a.b", "b"]
    assert short_keys(keys) == ["seed", "generator.lr", "discriminator.lr", "a.b", "b"]
