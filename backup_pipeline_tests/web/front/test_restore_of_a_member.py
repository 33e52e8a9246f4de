"""A member of a fleet is restored in the browser, and taken back, by the jobs that its fleet has for all members."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, expect

from backup_pipeline_tests.web.front.conftest import Walked, picture, type_and_go, wait_for

pytestmark = [
    pytest.mark.takes(seconds=15, together="restore in a browser"),
    pytest.mark.usefixtures("as_backed_up"),
]


def test_rows_of_a_fleets_member_are_back_from_its_page_and_are_taken_back(walked: Walked, page: Page) -> None:
    walked.execute("delete from public.orders where id between 10 and 19")
    page.goto(walked.address("/tenants"))
    page.get_by_role("link", name="tenants_acme", exact=True).click()
    picture(page, "member")
    page.get_by_role("link", name="Restore the last good set…").click()
    page.get_by_role("button", name="Find deleted rows").click()
    wait_for(page, "The plan")
    expect(page.get_by_text("Nothing that is live now would be lost.")).to_be_visible()
    picture(page, "member-plan")
    type_and_go(page, "another", "Bring it back")
    expect(page.get_by_role("alert")).to_contain_text("Nothing was done.")
    assert walked.value("select count(*) from public.orders") == 290
    type_and_go(page, walked.live.database, "Bring it back")
    wait_for(page, "Done")
    assert walked.value("select count(*) from public.orders") == 300
    done = page.url
    page.get_by_role("link", name="Undo", exact=True).click()
    type_and_go(page, walked.live.database, "Undo it")
    wait_for(page, "Taken back")
    assert walked.value("select count(*) from public.orders") == 290
    page.goto(done)
    wait_for(page, "Done, and undone since")
    query = "query ($id: ID!) { runOrError(runId: $id) { ... on Run { jobName tags { key value } } } }"
    found = walked.ui.ask(query, id=done.rpartition("/")[2])["runOrError"]
    tags = {tag["key"].partition("/")[2]: tag["value"] for tag in found["tags"]}
    assert (found["jobName"], tags["plan"], tags["operation"]) == ("tenants_restore", "tenants_acme", "restore")
    page.goto(walked.address("/restore"))
    expect(page.get_by_role("link", name="Undo of tenants_acme").first).to_be_visible()
