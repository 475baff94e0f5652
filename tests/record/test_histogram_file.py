from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from nectargan.record.histogram_file import Histogram, load_histograms, save_histograms


def test_saved_values_are_loaded(tmp_path: Path) -> None:
    path = tmp_path / "histograms" / "epoch_0001_step_00000003.npz"
    saved = {
        name: Histogram(np.float32([0, 1, low]), np.int64([low, 2]), np.float64([0, 1, 2, 3]))
        for low, name in enumerate(("weights/generator", "output/generator"), start=2)
    }
    save_histograms(saved, path)
    assert [each.name for each in path.parent.iterdir()] == [path.name]
    loaded = load_histograms(path)
    assert list(loaded) == list(saved)
    for name, histogram in saved.items():
        for ours, theirs in zip(histogram, loaded[name], strict=True):
            assert ours.dtype == theirs.dtype
            assert np.array_equal(ours, theirs)


def test_no_object_is_ever_unpickled(tmp_path: Path) -> None:
    with (tmp_path / "x.npz").open("wb") as file:
        np.savez(file, **{"a/edges": np.array([object()])})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="allow_pickle"):
        load_histograms(tmp_path / "x.npz")
