from __future__ import annotations

import math
from pathlib import Path

import pytest

from nectargan.cgroups import cpu_quota, memory_limit


def write_groups(folder: Path, groups: str, files: dict[str, str]) -> tuple[Path, Path]:
    """Control groups as Linux shows them: their root, and the file that says which are ours."""
    root, own = folder / "fs", folder / "cgroup"
    own.write_text(groups)
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text + "\n")
    return root, own


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
    assert cpu_quota(*write_groups(tmp_path, groups, files)) == cores


@pytest.mark.parametrize(
    ("groups", "files", "limit"),
    [
        ("0::/a/b\n", {"a/memory.max": "500", "a/b/memory.max": "max"}, 500),
        ("0::/a/b\n", {"a/memory.max": "500", "a/b/memory.max": "300"}, 300),
        ("0::/\n", {"memory.max": "700"}, 700),
        ("4:memory:/x\n1:cpu:/y\n", {"memory/x/memory.limit_in_bytes": "900"}, 900),
        ("0::/a\n", {}, math.inf),
    ],
)
def test_the_memory_of_a_control_group(
    tmp_path: Path, groups: str, files: dict[str, str], limit: float
) -> None:
    assert memory_limit(*write_groups(tmp_path, groups, files)) == limit


def test_without_control_groups(tmp_path: Path) -> None:
    assert cpu_quota(tmp_path, tmp_path / "none") == math.inf
    assert memory_limit(tmp_path, tmp_path / "none") == math.inf
