"""How long calls are repeated that a place does not answer."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from backup_pipeline.stores.objects.errors import ObjectNotFoundError, PlaceUnreachableError
from backup_pipeline.stores.objects.options import TimeLimits
from backup_pipeline.stores.objects.repeating import Repeater


def failing(times: int) -> Callable[[int], int]:
    """A call that the place answers only after so many attempts."""

    def call(attempt: int) -> int:
        if attempt <= times:
            raise PlaceUnreachableError("There is no connection.", where="s3://bucket")
        return attempt

    return call


def missing(attempt: int) -> int:
    raise ObjectNotFoundError("No such object.", where="s3://bucket/a")


def test_a_place_that_never_answered_is_given_up_early() -> None:
    repeater = Repeater(TimeLimits(first_answer=0, first_pause=0.001))
    with pytest.raises(PlaceUnreachableError, match="Tried 1 times"):
        repeater.run(failing(1))


def test_a_place_that_has_answered_is_tried_for_longer() -> None:
    repeater = Repeater(TimeLimits(first_answer=0, first_pause=0.001))
    assert repeater.run(failing(0)) == 1
    assert repeater.run(failing(5)) == 6


def test_an_answer_that_refuses_is_an_answer() -> None:
    repeater = Repeater(TimeLimits(first_answer=0, first_pause=0.001))
    with pytest.raises(ObjectNotFoundError):
        repeater.run(missing)
    assert repeater.run(failing(5)) == 6
