"""An admin on the way home: rows that were deleted yesterday are brought back on a phone, with a thumb."""

from __future__ import annotations

import pytest
from playwright.sync_api import Locator, Page, expect

from backup_pipeline_tests.web.front.conftest import Walked, picture, wait_for

pytestmark = [
    pytest.mark.takes(seconds=15, together="restore in a browser"),
    pytest.mark.usefixtures("as_backed_up"),
]
_FINGER = 44
"""Pixels that a finger hits without aiming (WCAG 2.2, 2.5.5)."""


def _tap(found: Locator) -> None:
    """Tap what stands where a thumb reaches it: on the screen's width, and as high as a finger needs."""
    found.scroll_into_view_if_needed()
    box = found.bounding_box()
    assert box is not None
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= 390
    assert round(box["height"]) >= _FINGER, found
    found.tap()


@pytest.mark.story
def test_deleted_rows_are_back_with_three_taps_and_one_typed_name(walked: Walked, phone: Page) -> None:
    walked.execute("delete from public.orders where id between 10 and 19")
    phone.goto(walked.address(""))
    picture(phone, "phone-1-home")
    _tap(phone.get_by_role("link", name="Restore", exact=True).first)
    wait_for(phone, "What do you want back?")
    picture(phone, "phone-2-restore")
    _tap(phone.get_by_role("button", name="Find deleted rows").first)
    wait_for(phone, "The plan")
    expect(phone.get_by_text("Nothing that is live now would be lost.")).to_be_visible()
    picture(phone, "phone-3-plan")
    phone.get_by_label("To do it, type the name").fill(walked.live.database)
    _tap(phone.get_by_role("button", name="Bring it back", exact=True))
    wait_for(phone, "Done")
    expect(phone.get_by_role("status")).to_contain_text(f"10 rows are back in {walked.live.database}.")
    picture(phone, "phone-4-done")
    assert walked.value("select count(*) from public.orders") == 300
    undo = phone.get_by_role("link", name="Undo", exact=True)
    box = undo.bounding_box()
    assert box is not None
    assert box["y"] + box["height"] <= 844  # Without scrolling: a person who sees a mistake looks for it first.


@pytest.mark.story
def test_every_step_of_a_restore_fits_a_phone_and_a_finger(walked: Walked, phone: Page) -> None:
    for name, path in (
        ("choose", f"/restore/nightly/{walked.set_id}/shop"),
        ("choose-files", f"/restore/nightly/{walked.set_id}/storage"),
        ("set", f"/nightly/{walked.set_id}"),
        ("plan-of-backups", "/nightly"),
    ):
        phone.goto(walked.address(path))
        phone.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
        picture(phone, f"phone-{name}")
        low = phone.evaluate(
            """least => [...document.querySelectorAll('button, .button, summary, .bar a, label.choice, select')]
            .filter(one => one.getClientRects().length && one.getBoundingClientRect().height < least - 0.5)
            .map(one => one.outerHTML)""",
            _FINGER,
        )
        assert low == [], name
