from __future__ import annotations

from pathlib import Path

from tests.tools.test_benchmarks import rows, run


def test_kinds_are_compared_with_8_bits(tmp_path: Path) -> None:
    size = ("--size", "32", "--pairs", "2", "--rounds", "1")
    run("bench_dtypes.py", *size, "--json", str(tmp_path / "figures.json"))
    found = rows(tmp_path / "figures.json")
    assert list(found) == [
        f"{what}, {kind}"
        for what in ("batches", "training")
        for kind in ("uint8", "uint16", "float32")
    ]
    assert found["training, uint16"]["baseline"] == "training, uint8"
    assert all(row["median"] > 0 for row in found.values())
