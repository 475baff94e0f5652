from __future__ import annotations

import math
from pathlib import Path

import pytest

from nectargan.cgroups import cpu_quota


@pytest.mark.parametrize(
    ("groups", "files", "cores"),
    [
        ("0::/job/own", {}, math.inf),
        ("0::/job/own", {"job/own/cpu.max": "max 100000"}, math.inf),
        ("0::/job/own", {"job/own/cpu.max": "150000 100000"}, 1.5),
        ("0::/job/own", {"job/own/cpu.max": "max 100000", "job/cpu.max": "400000 100000"}, 4.0),
        # A container sees its own group as the root.
        ("0::/", {"cpu.max": "200000 100000"}, 2.0),
        (
            "3:cpu,cpuacct:/docker/x\n0::/",
            {"cpu/cpu.cfs_quota_us": "50000", "cpu/cpu.cfs_period_us": "100000"},
            0.5,
        ),
        ("3:cpu:/", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, math.inf),
        ("0::/", {"cpu.max": "nonsense"}, math.inf),
        ("0::/", {"cpu.max": "1 0"}, math.inf),
    ],
)
def test_the_quota_of_a_control_group(
    tmp_path: Path, groups: str, files: dict[str, str], cores: float
) -> None:
    own = tmp_path / "cgroup"
    own.write_text(groups)
    for name, text in files.items():
        (tmp_path / "fs" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "fs" / name).write_text(text + "\n")
    assert cpu_quota(tmp_path / "fs", own) == cores


def test_without_control_groups(tmp_path: Path) -> None:
    assert cpu_quota(tmp_path, tmp_path / "none") == math.inf
