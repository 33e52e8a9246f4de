"""A restore as a frightened person does it in a browser, against a real database and real files."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
import yaml
from playwright.sync_api import Browser, Page, expect

from backup_pipeline.orchestration.names import restored_key
from backup_pipeline.orchestration.ui_links import start_restore_link
from backup_pipeline.postgres.server.connection import connected
from backup_pipeline.system.locks import hold_lock
from backup_pipeline_tests.support.postgres_restore import sealed_set
from backup_pipeline_tests.web.front.conftest import Walked, keep_picture, picture, type_and_go, wait_for

pytestmark = [
    pytest.mark.takes(seconds=15, together="restore in a browser"),
    pytest.mark.usefixtures("as_backed_up"),
]


def _form(page: Page, walked: Walked) -> dict[str, str | float | bool]:
    """Return what the plan's page sends when the right name is typed."""
    plan_id = page.locator("input[name=plan_id]").get_attribute("value")
    assert plan_id
    return {"plan_id": plan_id, "confirm": walked.live.database}


def test_deleted_rows_are_back_three_clicks_from_the_home_page(walked: Walked, page: Page) -> None:
    walked.execute("delete from public.orders where id between 10 and 19")
    walked.execute("update public.customers set name = 'Renamed since' where id = 1")
    page.goto(walked.address(""))
    clicks = [page.get_by_role("link", name="Restore", exact=True).first]
    clicks[0].click()
    picture(page, "restore-1-home")
    page.get_by_role("button", name="Find deleted rows").first.click()
    wait_for(page, "The plan")
    expect(page.get_by_text("Nothing that is live now would be lost.")).to_be_visible()
    row = page.get_by_role("row", name=re.compile("public.orders"))
    expect(row.get_by_role("cell").first).to_have_text("10")
    picture(page, "restore-2-plan")
    type_and_go(page, "another", "Bring it back")
    expect(page.get_by_role("alert")).to_contain_text(f"The name is “{walked.live.database}”. Nothing was done.")
    assert walked.value("select count(*) from public.orders") == 290
    plan, form = page.url.removesuffix("/apply"), _form(page, walked)
    type_and_go(page, walked.live.database, "Bring it back")
    wait_for(page, "Done")
    picture(page, "restore-3-done")
    again = page.request.post(f"{plan}/apply", form=form, headers={"Origin": walked.ui.address}, max_redirects=0)
    assert (again.status, "Nothing was done now." in again.text()) == (409, True)
    assert page.url.removeprefix(walked.ui.address) in again.text()
    assert "To do it, type the name" not in again.text()
    assert "would" not in page.locator("caption").inner_text()
    page.get_by_role("link", name="Undo", exact=True).click()
    written = page.get_by_role("region", name="What this restore wrote").get_by_role("row")
    assert [text.split() for text in written.all_inner_texts()[1:]] == [["public.orders", "10", "0"]]
    page.get_by_role("link", name="Leave it as it is").click()
    assert walked.value("select count(*) from public.orders") == 300
    assert walked.value("select name from public.customers where id = 1") == "Renamed since"
    run = page.url.rpartition("/")[2]
    query = "query ($id: ID!) { runOrError(runId: $id) { ... on Run { jobName tags { key value } } } }"
    found = walked.ui.ask(query, id=run)["runOrError"]
    tags = {tag["key"]: tag["value"] for tag in found["tags"]}
    assert found["jobName"] == "nightly_restore"
    assert tags["backup_pipeline/started_by"].startswith("front page")
    assert tags["dagster/partition"] == walked.set_id


def test_rows_deleted_before_the_newest_backup_come_from_the_one_before(walked: Walked, page: Page) -> None:
    walked.execute("delete from public.orders where id between 30 and 36")
    newer = sealed_set(walked.site.site, "nightly")
    try:
        page.goto(walked.address("/restore"))
        page.get_by_role("button", name="Find deleted rows").first.click()
        wait_for(page, "The plan")
        expect(page.get_by_text("There is nothing to bring back")).to_be_visible()
        expect(page.get_by_text("7 more in public.orders")).to_be_visible()
        expect(page.get_by_label("To do it, type the name")).to_have_count(0)
        picture(page, "restore-nothing-to-bring-back")
        page.get_by_role("button", name="Compare with this one").click()
        wait_for(page, "The plan")
        expect(page.get_by_label("To do it, type the name")).to_be_visible()
        row = page.get_by_role("row", name=re.compile("public.orders"))
        expect(row.get_by_role("cell").first).to_have_text("7")
        assert walked.set_id in page.get_by_role("main").inner_text()
    finally:
        walked.site.store("nightly").remove(newer)


@pytest.mark.parametrize("width", [1280, 390])
def test_the_rows_that_a_plan_counts_can_be_seen_and_each_look_is_logged(
    walked: Walked, browser: Browser, width: int
) -> None:
    walked.execute("delete from public.orders where id between 10 and 39")
    walked.execute("update public.customers set name = 'Renamed <b>since</b>' where id = 1")
    context = browser.new_context(viewport={"width": width, "height": 844})
    page = context.new_page()
    page.goto(walked.address(f"/restore/nightly/{walked.set_id}/shop"))
    page.get_by_label("Bring back deleted and changed rows").check()
    page.get_by_role("button", name="Show the plan").click()
    wait_for(page, "The plan")
    page.get_by_role("link", name="30: see the rows put back into public.orders").click()
    wait_for(page, "Rows that would be put back into public.orders")
    assert page.locator("tbody tr td:first-child").all_inner_texts() == [str(number) for number in range(10, 35)]
    picture(page, f"restore-rows-added-{width}")
    page.get_by_role("link", name="Next").click()
    assert page.locator("tbody tr td:first-child").all_inner_texts() == [str(number) for number in range(35, 40)]
    page.get_by_role("link", name="Back to the plan").click()
    page.get_by_role("link", name="1: see the rows replaced in public.customers").click()
    wait_for(page, "Rows that would be replaced in public.customers")
    assert page.locator("thead th").all_inner_texts() == ["id key", "name"]
    assert page.locator("tbody del").inner_text() == "Renamed <b>since</b>"
    assert page.locator("tbody ins").inner_text() == "Customer 1"
    picture(page, f"restore-rows-replaced-{width}")
    context.close()
    assert walked.value("select count(*) from public.orders") == 270
    log = (walked.site.site.store_folder("nightly") / "access_log.txt").read_text("utf-8")
    for what in (
        *("shop public.orders: rows 1 to 25 that a restore would put back", "public.orders: rows 26 to 50"),
        "shop public.customers: rows 1 to 25 that a restore would replace read by front page from 127.0.0.1",
    ):
        assert what in log


@pytest.mark.story
def test_a_wrong_name_does_nothing_and_double_submits_restore_once(walked: Walked, page: Page) -> None:
    walked.execute("update public.customers set vip = not vip where id <= 5")
    before = walked.value("select sum(id) filter (where vip) from public.customers")
    page.goto(walked.address(f"/restore/nightly/{walked.set_id}/shop"))
    picture(page, "restore-choose")
    page.get_by_label("Bring back deleted and changed rows").check()
    page.get_by_text("Only some rows (of one table or several").click()
    page.get_by_label("Table 1").select_option("public.customers")
    page.get_by_label("Column 1").fill("id")
    page.get_by_label("Comparison 1").select_option("in")
    page.get_by_label("Value 1").fill("1, 2, 3")
    picture(page, "restore-choose-rows")
    page.get_by_role("button", name="Show the plan").click()
    wait_for(page, "The plan")
    lost = page.locator(".losses")
    expect(lost).to_contain_text("3 rows would lose the changes made since the backup")
    picture(page, "restore-plan-loss")
    plan = page.url
    type_and_go(page, "another", "Bring it back")
    expect(page.get_by_role("alert")).to_contain_text(f"The name is “{walked.live.database}”. Nothing was done.")
    picture(page, "restore-wrong-name")
    assert walked.value("select sum(id) filter (where vip) from public.customers") == before
    form = _form(page, walked)
    headers = {"Origin": walked.ui.address}
    answers = [page.request.post(f"{plan}/apply", form=form, headers=headers, max_redirects=0) for _ in range(2)]
    assert [answer.status for answer in answers] == [303, 303]
    assert len({answer.headers["location"] for answer in answers}) == 1
    page.goto(f"{walked.ui.address}{answers[0].headers['location']}")
    wait_for(page, "Done")
    page.reload()
    wait_for(page, "Done")
    assert walked.value("select count(*) from public.customers where id <= 3 and vip = (id % 3 = 0)") == 3
    assert walked.value("select count(*) from public.customers where id in (4, 5) and vip = (id % 3 = 0)") == 0


@pytest.mark.story
def test_a_target_that_changed_is_refused_and_the_new_plan_shown(walked: Walked, page: Page) -> None:
    walked.execute("delete from public.orders where id between 30 and 34")
    page.goto(walked.address("/restore"))
    page.get_by_role("button", name="Find deleted rows").first.click()
    wait_for(page, "The plan")
    walked.execute("delete from public.orders where id = 35")
    type_and_go(page, walked.live.database, "Bring it back")
    wait_for(page, "Not done: read the new plan")
    expect(page.get_by_text("Nothing was changed.")).to_be_visible()
    row = page.get_by_role("row", name=re.compile("public.orders"))
    expect(row.get_by_role("cell").first).to_have_text("6")
    picture(page, "restore-changed-plan")
    assert walked.value("select count(*) from public.orders where id between 30 and 35") == 0
    type_and_go(page, walked.live.database, "Bring it back")
    wait_for(page, "Done")
    assert walked.value("select count(*) from public.orders where id between 30 and 35") == 6


@pytest.mark.story
def test_rows_come_back_from_a_set_that_is_only_in_a_vault_and_are_taken_back(walked: Walked, page: Page) -> None:
    lost = sealed_set(walked.site.site, "nightly")
    assert walked.site.run("vault", "copy", "offsite", f"nightly/{lost}").code == 0
    shutil.rmtree(walked.site.site.store_folder("nightly") / lost)
    walked.execute("delete from public.orders where id between 80 and 83")
    page.goto(walked.address(f"/offsite:nightly/{lost}"))
    picture(page, "set-in-a-vault")
    page.get_by_role("link", name="Restore…").click()
    picture(page, "restore-from-a-vault")
    page.get_by_role("button", name="Find deleted rows").click()
    wait_for(page, "The plan")
    expect(page.get_by_text(f"offsite:nightly/{lost}")).to_be_visible()
    type_and_go(page, walked.live.database, "Bring it back")
    wait_for(page, "Done")
    assert walked.value("select count(*) from public.orders where id between 80 and 83") == 4
    done = page.url
    walked.execute("update public.orders set note = 'since' where id = 83")
    page.get_by_role("link", name="Undo", exact=True).click()
    picture(page, "restore-undo-rows")
    type_and_go(page, walked.live.database, "Undo it")
    wait_for(page, "Taken back")
    expect(page.get_by_role("status")).to_contain_text("3 rows that were added are gone again.")
    picture(page, "restore-rows-taken-back")
    expect(page.get_by_role("link", name="Restore something else")).to_be_visible()
    page.goto(done)
    wait_for(page, "Done, and undone since")
    expect(page.locator("dl.facts", has_text="Added rows gone again")).to_contain_text("3")
    expect(page.locator("dl.facts", has_text="Rows written")).not_to_contain_text("again")
    picture(page, "restore-done-and-undone")
    assert walked.value("select string_agg(note, ',') from public.orders where id between 80 and 83") == "since"
    page.goto(walked.address("/restore"))
    expect(page.get_by_text(f"offsite:nightly/{lost}").first).to_be_visible()


@pytest.mark.story
def test_an_auditor_reads_what_was_restored_when_and_by_whom(walked: Walked, page: Page) -> None:
    page.goto(walked.address(f"/restore/nightly/{walked.set_id}/storage?what=files&files=materials/folder 4"))
    (walked.site.folder / "storage" / "materials" / "folder 4" / "file-4.txt").unlink(missing_ok=True)
    page.get_by_role("button", name="Show the plan").click()
    wait_for(page, "The plan")
    type_and_go(page, "storage", "Bring it back")
    wait_for(page, "Done")
    for width in (1280, 390):
        page.set_viewport_size({"width": width, "height": 900})
        page.goto(walked.address(""))
        page.get_by_role("link", name="Evidence", exact=True).click()
        page.get_by_label("Period").fill(walked.set_id[:7])
        page.get_by_role("button", name="Show").click()
        restores = page.get_by_role("group", name="Restores", exact=True)
        row = restores.get_by_role("row").filter(has_text="storage").first
        expect(row).to_contain_text("front page from 127.0.0.1")
        picture(page, f"evidence-{width}")


@pytest.mark.story
def test_files_come_back_into_the_living_folder_and_are_undone(walked: Walked, page: Page) -> None:
    file = walked.site.folder / "storage" / "materials" / "folder 1" / "file-1.txt"
    kept = file.read_text("utf-8")
    file.write_text("written over", "utf-8")
    page.goto(walked.address(f"/restore/nightly/{walked.set_id}/storage"))
    page.get_by_label("Bring back single files or folders").check()
    page.get_by_label("One path on each line").fill("materials/folder 1")
    picture(page, "restore-choose-files")
    page.get_by_role("button", name="Show the plan").click()
    wait_for(page, "The plan")
    type_and_go(page, "storage", "Bring it back")
    wait_for(page, "Done")
    assert file.read_text("utf-8") == kept
    page.get_by_role("link", name="Undo", exact=True).click()
    picture(page, "restore-undo")
    type_and_go(page, "materials", "Undo it")
    expect(page.get_by_role("alert")).to_contain_text("Nothing was done")
    type_and_go(page, "storage", "Undo it")
    wait_for(page, "Taken back")
    assert file.read_text("utf-8") == "written over"
    file.write_text(kept, "utf-8")


@pytest.mark.story
def test_a_whole_database_goes_back_and_undo_brings_the_rows_since(walked: Walked, page: Page) -> None:
    walked.execute("insert into public.customers (name) values ('New since')")
    page.goto(walked.address(f"/restore/nightly/{walked.set_id}/shop"))
    page.get_by_label("Go back to the backup as a whole").check()
    page.get_by_role("button", name="Show the plan").click()
    wait_for(page, "The plan")
    expect(page.locator(".losses")).to_contain_text("1 row that is new since the backup would be gone")
    picture(page, "restore-plan-whole")
    type_and_go(page, walked.live.database, "Restore it")
    wait_for(page, "Done")
    assert walked.value("select count(*) from public.customers where name = 'New since'") == 0
    page.get_by_role("link", name="Undo", exact=True).click()
    type_and_go(page, walked.live.database, "Undo it")
    wait_for(page, "Taken back")
    assert walked.value("select count(*) from public.customers where name = 'New since'") == 1
    page.go_back()
    page.go_back()
    expect(page.get_by_role("heading", level=1)).to_be_visible()
    walked.execute("delete from public.customers where name = 'New since'")


@pytest.mark.story
def test_undo_of_rows_leads_to_the_plan_of_the_backup_made_just_before(walked: Walked, page: Page) -> None:
    walked.execute("delete from public.orders where id between 60 and 61")
    page.goto(walked.address("/restore"))
    page.get_by_role("button", name="Find deleted rows").first.click()
    wait_for(page, "The plan")
    type_and_go(page, walked.live.database, "Bring it back")
    wait_for(page, "Done")
    walked.execute("update public.customers set name = 'Written after' where id = 40")
    page.get_by_role("link", name="Undo", exact=True).click()
    page.get_by_role("button", name="Show the plan of going back").click()
    wait_for(page, "The plan")
    expect(page.locator(".losses")).to_contain_text("2 rows that are new since the backup would be gone")
    expect(page.locator(".losses")).to_contain_text("1 row would lose the changes made since the backup")
    page.get_by_role("link", name="Do nothing").click()
    expect(page.get_by_text("Restored lately")).to_be_visible()
    assert walked.value("select count(*) from public.orders where id between 60 and 61") == 2


@pytest.mark.story
def test_a_copy_is_made_beside_the_database_which_is_not_touched(walked: Walked, page: Page) -> None:
    walked.execute("update public.customers set name = 'Only live' where id = 39")
    copy = f"{walked.live.database}_copy"
    page.goto(walked.address(f"/restore/nightly/{walked.set_id}/shop"))
    page.get_by_role("radio", name="Make a copy beside it").check()
    page.get_by_label("Name of the copy").fill(copy)
    page.get_by_role("button", name="Show the plan").click()
    wait_for(page, "The plan")
    expect(page.get_by_text("Nothing that is live now would be lost.")).to_be_visible()
    type_and_go(page, copy, "Bring it back")
    wait_for(page, "Done")
    expect(page.get_by_role("status")).to_contain_text(f"A copy of shop is ready: {copy}")
    assert walked.value("select name from public.customers where id = 39") == "Only live"
    with connected(walked.live.with_database(copy)) as connection:
        assert connection.execute("select name from public.customers where id = 39").fetchone() == ("Customer 39",)
    with connected(walked.live) as connection:
        connection.execute(f'drop database "{copy}"'.encode())


@pytest.mark.story
def test_without_javascript_on_a_phone_a_file_comes_back(walked: Walked, browser: Browser) -> None:
    file = walked.site.folder / "storage" / "submissions" / "folder 3" / "file-3.txt"
    kept = file.read_text("utf-8")
    file.unlink()
    context = browser.new_context(java_script_enabled=False, viewport={"width": 390, "height": 844})
    page = context.new_page()
    page.goto(walked.address(f"/restore/nightly/{walked.set_id}/storage"))
    page.get_by_label("Bring back single files or folders").check()
    page.get_by_label("One path on each line").fill("submissions/folder 3/file-3.txt")
    page.get_by_role("button", name="Show the plan").click()
    wait_for(page, "The plan")
    type_and_go(page, "storage", "Bring it back")
    wait_for(page, "Done")
    assert file.read_text("utf-8") == kept
    context.close()


@pytest.mark.story
def test_two_people_at_once_are_told_who_restores(walked: Walked, page: Page) -> None:
    file = walked.site.folder / "storage" / "materials" / "folder 2" / "file-2.txt"
    kept = file.read_text("utf-8")
    file.write_text("damaged", "utf-8")
    page.goto(walked.address(f"/restore/nightly/{walked.set_id}/storage?what=files&files=materials/folder 2"))
    page.get_by_role("button", name="Show the plan").click()
    wait_for(page, "The plan")
    first = page.url
    page.get_by_role("button", name="Make the plan anew").click()
    wait_for(page, "The plan")
    second = page.url
    assert first != second
    lock = Path(walked.site.folder / ".storage.restore.lock")
    with hold_lock(lock, purpose="restore of storage by a person in a terminal"):
        page.goto(first)
        type_and_go(page, "storage", "Bring it back")
        expect(page.get_by_role("heading", level=1)).to_contain_text("Restoring")
        running = page.url
        page.goto(second)
        expect(page.get_by_role("status")).to_contain_text("is being restored just now, asked for by front page")
        type_and_go(page, "storage", "Bring it back")
        expect(page.get_by_role("alert")).to_contain_text("is being restored just now, asked for by front page")
        picture(page, "restore-two-people")
        assert file.read_text("utf-8") == "damaged"
    page.goto(running)
    expect(page.get_by_role("heading", level=1)).to_contain_text(re.compile("Done|not done"), timeout=120_000)
    file.write_text(kept, "utf-8")


@pytest.mark.story
def test_a_connection_that_is_lost_in_the_middle_changes_nothing_and_is_said(walked: Walked, page: Page) -> None:
    walked.execute("delete from public.orders where id between 40 and 42")
    page.goto(walked.address("/restore"))
    page.get_by_role("button", name="Find deleted rows").first.click()
    wait_for(page, "The plan")
    lost = (
        "select count(pg_terminate_backend(pid)) from pg_stat_activity "
        f"where datname = '{walked.live.database}' and wait_event_type = 'Lock'"
    )
    with connected(walked.live) as blocker:
        # The backup made before may read this table; the restore waits for it, and its connection ends there.
        blocker.execute(b"begin")
        blocker.execute(b"lock table public.orders in exclusive mode")
        type_and_go(page, walked.live.database, "Bring it back")
        expect(page.get_by_role("heading", level=1)).to_contain_text("Restoring")
        for _ in range(600):
            if walked.value(lost):
                break
            page.wait_for_timeout(200)
        else:
            raise AssertionError("the restore never reached the table")
        blocker.execute(b"rollback")
    wait_for(page, "The restore was not done")
    expect(page.get_by_text("What was live is live")).to_be_visible()
    picture(page, "restore-lost-connection")
    assert walked.value("select count(*) from public.orders where id between 40 and 42") == 0


@pytest.mark.story
def test_a_plan_made_in_dagster_is_applied_from_its_launchpad_filled_in(walked: Walked, page: Page) -> None:
    walked.execute("delete from public.orders where id between 70 and 72")
    site = walked.site.site
    page.goto(walked.ui.address + start_restore_link(site, "nightly", "shop", walked.set_id))
    assert walked.ui.wait_for_run(_launched(page)) == "SUCCESS"
    assert walked.value("select count(*) from public.orders where id between 70 and 72") == 0
    key = "/".join(restored_key("nightly", "shop").path)
    page.goto(f"{walked.ui.address}/assets/{key}?view=events&partition={walked.set_id}")
    link = page.get_by_role("link", name="Apply this plan").first
    expect(link).to_be_visible(timeout=90_000)
    keep_picture(page, "restore-plan-in-dagster")
    link.click()
    expect(page.locator(".CodeMirror").first).to_contain_text("plan_id", timeout=90_000)
    text = page.evaluate("document.querySelector('.CodeMirror').CodeMirror.getValue()")
    config = yaml.safe_load(text)["ops"]["nightly__restore_shop"]["config"]
    assert (config["step"], config["confirm"]) == ("apply", "")
    keep_picture(page, "restore-launchpad")
    page.evaluate(
        "text => document.querySelector('.CodeMirror').CodeMirror.setValue(text)",
        text.replace("confirm: ''", f"confirm: {walked.live.database}"),
    )
    assert walked.ui.wait_for_run(_launched(page)) == "SUCCESS"
    assert walked.value("select count(*) from public.orders where id between 70 and 72") == 3


def _launched(page: Page) -> str:
    """Press the launchpad's button once the configuration is accepted, and return the run's id."""
    button = page.get_by_role("button", name="Launch Run")
    expect(button).to_be_enabled(timeout=90_000)
    button.click()
    page.wait_for_url("**/runs/*", timeout=90_000)
    return page.url.rpartition("/runs/")[2][:36]
