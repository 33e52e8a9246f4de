"""3-2-1-1-0: each of the five answers holds only for what it asks."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from backup_pipeline.rules.three_two_one import Holding, three_two_one_one_zero

STORE = Holding("the store", "device 1")
SAME_DISK = Holding("attic", "device 1")
OTHER_DISK = Holding("usb", "device 2", off_site=True)
BUCKET = Holding("offsite", "s3 bucket", off_site=True, undeletable="until 2027-01-01")


@pytest.mark.parametrize(
    ("holdings", "proven", "errors", "held"),
    [
        ([], "", [], ""),
        ([STORE], "", [], ""),
        ([STORE, SAME_DISK], "", [], "3"),
        ([STORE, OTHER_DISK], "", [], "3 2 off"),
        ([STORE, BUCKET], "on 2026-11-20", [], "3 2 off immutable 0"),
        ([STORE, BUCKET], "on 2026-11-20", ["the newest set is bad"], "3 2 off immutable"),
        ([BUCKET], "on 2026-11-20", [], "off immutable 0"),
    ],
)
def test_each_answer_holds_only_for_what_it_asks(
    holdings: Sequence[Holding], proven: str, errors: Sequence[str], held: str
) -> None:
    answers = three_two_one_one_zero(holdings, proven=proven, errors=errors, plan="nightly")
    names = ("3", "2", "off", "immutable", "0")
    assert [name for name, answer in zip(names, answers, strict=True) if answer.holds] == held.split()
    assert all(answer.what and answer.remedy for answer in answers)
