"""Patterns of names of shards, compared with those of bash and of the package braceexpand."""

from __future__ import annotations

import subprocess
from pathlib import Path

import braceexpand
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from nectargan.dataset.shard_names import absolute, expand_braces, find_shards, name_of
from nectargan.errors import DataError

_PATTERNS = [
    "data/train-{000000..000099}.tar",
    "{train,val}-{0..2}.tar",
    "{train-{00..03},val-{8..10}}.tar",
    "a{3..1}b{a,,c}.tar",
    "{0..9..3}-{05..1..2}.tar",
    "{1}.tar",
    "a{b.tar",
    "{-1..1}.tar",
]


@pytest.mark.parametrize("pattern", _PATTERNS)
def test_braces_are_those_of_bash(pattern: str) -> None:
    printed = subprocess.check_output(
        ["bash", "-c", f"printf '%s\\n' {pattern}"],
        text=True,
    )
    assert list(expand_braces(pattern)) == printed.splitlines()


@given(st.text("ab{},.0129", max_size=12))
def test_braces_are_those_of_webdataset(pattern: str) -> None:
    try:
        expected = list(braceexpand.braceexpand(pattern, escape=False))
    except braceexpand.UnbalancedBracesError:
        return
    found = list(expand_braces(pattern))
    # braceexpand leaves out the braces of "{a}" inside other braces; bash keeps them.
    assume("{" not in "".join(found))
    assert found == expected


def make(folder: Path, *names: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).touch()


def places(root: str | Path) -> dict[str, list[str]]:
    found = find_shards(root)
    assert found is not None
    return {split: [Path(place).name for place in some] for split, some in found.places.items()}


def test_the_split_is_a_word_of_the_name_or_the_folder(tmp_path: Path) -> None:
    make(tmp_path, "train-0.tar", "train-1.tar", "faces_valid_0.tar", "testing.tar", "other.tar")
    make(tmp_path / "val", "0.tar")
    assert places(tmp_path) == {
        "val": ["faces_valid_0.tar"],
        "test": ["testing.tar"],
        "train": ["train-0.tar", "train-1.tar"],
    }
    assert places(f"{tmp_path}/train-{{0..1}}.tar::{tmp_path}/val/{{0..0}}.tar") == {
        "train": ["train-0.tar", "train-1.tar"],
        "val": ["0.tar"],
    }
    assert places(f"{tmp_path}/train-*.tar") == {"train": ["train-0.tar", "train-1.tar"]}
    assert places(f"{tmp_path}/other.tar") == {"train": ["other.tar"]}


def test_a_folder_without_shards_has_none(tmp_path: Path) -> None:
    make(tmp_path / "a#b", "other.tar", "train-0.txt", ".train-0.tar")
    assert find_shards(tmp_path / "a#b") is None
    assert find_shards(tmp_path / "missing") is None
    make(tmp_path / "a#b", "train-0.tar")
    assert places(tmp_path / "a#b") == {"train": ["train-0.tar"]}


@pytest.mark.parametrize(
    ("root", "sentence"),
    [
        ("x-{0..9}.tar", r"x-{0\.\.9}\.tar: none of the 10 shards exists, such as .*x-0\.tar"),
        ("x-*.tar", r"x-\*\.tar: the pattern matches nothing"),
        ("train-val-0.tar", "name contains train and val; name one split"),
        ("train-0.tar#a,b,c", "'#a,b,c' must name input and target of a sample"),
        ("train-0.tar#a,a", "'#a,a' must name"),
        ("train-0.tar#a,", "'#a,' must name"),
        ("{0..9999999}.tar", r"{0\.\.9999999} are more than 1,000,000 shards"),
    ],
)
def test_what_names_no_shards_is_one_sentence(tmp_path: Path, root: str, sentence: str) -> None:
    make(tmp_path, "train-val-0.tar", "train-0.tar")
    with pytest.raises(DataError, match=sentence):
        find_shards(f"{tmp_path}/{root}")


def test_an_address_with_secrets_is_refused_without_naming_them() -> None:
    for address in ("http://me:secret@host/train-0.tar", "http://host/train-0.tar?token=secret"):
        with pytest.raises(DataError, match="which a run would record") as caught:
            find_shards(address)
        assert "secret" not in str(caught.value)


def test_paths_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = "data/train-{0..1}.tar::http://host/{train,val}.tar#rgb,depth"
    assert absolute(text) == f"{tmp_path}/{text}"
    assert absolute("data") == f"{tmp_path}/data"
    assert (name_of(text), name_of("data/x")) == ("train-{0..1}.tar", "x")
