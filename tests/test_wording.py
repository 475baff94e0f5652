from __future__ import annotations

from nectargan.wording import counted, listed


def test_a_number_and_its_noun() -> None:
    told = [counted(number, "epoch") for number in (0, 1, 2)]
    assert told == ["0 epochs", "1 epoch", "2 epochs"]
    assert (counted(1, "loss"), counted(3, "loss")) == ("1 loss", "3 losses")


def test_several_problems_are_a_list() -> None:
    assert listed("The config cannot be used", ["A."]) == "A."
    told = listed("The config cannot be used", ["A.", "B."])
    assert told.splitlines() == ["The config cannot be used, 2 problems:", "  A.", "  B."]
