from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from tools.photographs import main, photographs

pytest.importorskip("sklearn")


def test_pairs_are_tiles_of_photographs_in_grey_and_in_color(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, [str(tmp_path / "photos"), "--size", "128", "--blur", "0"])
    assert result.exit_code == 0, result.output
    # 640 x 427 twice, and 512 x 606: 5 x 3, 5 x 3 and 4 x 4 tiles, one column of each in val.
    counts = [len(list((tmp_path / "photos" / split).iterdir())) for split in ("train", "val")]
    assert counts == [12 + 12 + 12, 3 + 3 + 4]
    pair = Image.open(tmp_path / "photos" / "train" / "china_1_2.png")
    assert (pair.size, pair.mode) == ((256, 128), "RGB")
    (china,) = (path for path in photographs() if path.stem == "china")
    tile = Image.open(china).convert("RGB").crop((256, 128, 384, 256))
    np.testing.assert_array_equal(np.asarray(pair)[:, 128:], np.asarray(tile))
    np.testing.assert_array_equal(np.asarray(pair)[:, :128, 0], np.asarray(tile.convert("L")))


def test_what_exists_is_not_written_to(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, [str(tmp_path)])
    assert result.exit_code == 1
    assert "exists" in result.output
