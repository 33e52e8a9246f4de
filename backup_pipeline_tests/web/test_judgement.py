"""Which requests pass to Dagster: decided by what a browser says that a page of another site cannot choose."""

from __future__ import annotations

import pytest

from backup_pipeline.errors import SettingsError
from backup_pipeline.web.access import ui_access
from backup_pipeline.web.judgement import Asked, judge

LOOPBACK = ui_access({}, "127.0.0.1").allowed
PUBLIC = ui_access({"UI_PASSWORD": "a-password-of-some-length", "UI_URL": "https://ui.example.org/"}, "0.0.0.0").allowed
JSON = {"content-type": "application/json"}


def asked(
    method: str, path: str = "/graphql", host: str = "127.0.0.1:3000", query: bool = False, **headers: str
) -> Asked:
    reported = {"host": host, **{name.replace("_", "-"): value for name, value in headers.items()}}
    return Asked(method, path, "http", reported, query=query)


@pytest.mark.parametrize("host", ["127.0.0.1:3000", "localhost:3000", "LOCALHOST", "[::1]:3000", "127.0.0.1:8080"])
def test_the_page_itself_and_programs_may_ask_and_change(host: str) -> None:
    own = {"origin": f"http://{host.lower()}", "sec_fetch_site": "same-origin"}
    assert (
        judge(
            asked("GET", "/", host, sec_fetch_site="none", sec_fetch_mode="navigate", sec_fetch_dest="document"),
            LOOPBACK,
        )
        is None
    )
    assert judge(asked("POST", host=host, content_type="application/json; charset=utf-8", **own), LOOPBACK) is None
    assert judge(asked("WEBSOCKET", host=host, **own), LOOPBACK) is None
    # A program that is no browser.
    assert judge(asked("POST", host=host, content_type="application/json"), LOOPBACK) is None


@pytest.mark.parametrize(
    "host",
    [
        "",
        "evil.example",
        "evil.example:3000",
        "127.0.0.1.evil.example",
        "localhost.evil.example",
        "127.0.0.1:x",
        "127.0.0.1, evil.example",
        "user@127.0.0.1",
        "192.168.1.5:3000",
        "127.0.0.1/evil",
        "0x7f000001",
        "ui.example.org",
    ],
)
def test_other_names_are_refused_also_those_that_lead_here(host: str) -> None:
    for method in ("GET", "POST", "WEBSOCKET"):
        refusal = judge(asked(method, "/", host, content_type="application/json"), LOOPBACK)
        assert refusal is not None
        assert refusal.status == 421


@pytest.mark.parametrize(
    "origin",
    [
        "http://evil.example",
        "null",
        "http://127.0.0.1:8000",
        "http://localhost:3000",
        "",
        "file://",
        "https://127.0.0.1:3000.evil.example",
        "http://127.0.0.1",
    ],
)
def test_pages_of_other_origins_are_refused_also_of_other_ports(origin: str) -> None:
    for method in ("GET", "POST", "WEBSOCKET"):
        refusal = judge(asked(method, content_type="application/json", origin=origin), LOOPBACK)
        assert refusal is not None
        assert refusal.status == 403


def test_what_a_browser_says_of_the_site_is_respected() -> None:
    for site in ("cross-site", "same-site", "something-new"):
        for headers in (
            {},
            {"sec_fetch_mode": "no-cors", "sec_fetch_dest": "image"},
            {"sec_fetch_mode": "navigate", "sec_fetch_dest": "iframe"},
        ):
            assert judge(asked("GET", "/", sec_fetch_site=site, **headers), LOOPBACK) is not None
        assert judge(asked("POST", sec_fetch_site=site, content_type="application/json"), LOOPBACK) is not None
        # A link that a person follows opens the page, and nothing else.
        link = {"sec_fetch_site": site, "sec_fetch_mode": "navigate", "sec_fetch_dest": "document"}
        assert judge(asked("GET", "/runs/1", **link), LOOPBACK) is None
        assert judge(asked("GET", "/graphql", **link), LOOPBACK) is not None
        assert judge(asked("POST", "/runs/1", content_type="application/json", **link), LOOPBACK) is not None
    assert judge(asked("POST", sec_fetch_site="none", content_type="application/json"), LOOPBACK) is not None


@pytest.mark.parametrize(
    "kind",
    [
        "",
        "text/plain",
        "text/plain; x=application/json",
        "application/graphql",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "application/json, text/plain",
    ],
)
def test_changes_come_as_json_and_by_post(kind: str) -> None:
    for path in ("/graphql", "/report_asset_materialization/nightly/manifest"):
        refusal = judge(asked("POST", path, content_type=kind), LOOPBACK)
        assert refusal is not None
        assert refusal.status == 415
    for method in ("GET", "HEAD"):
        for path in ("/graphql", "/graphql/", "/prefix/graphql"):
            refusal = judge(asked(method, path, query=True), LOOPBACK)
            assert refusal is not None
            assert refusal.status == 405
    assert judge(asked("PUT", content_type="application/json"), LOOPBACK) is not None


def test_behind_a_proxy_the_public_name_and_its_own_origin_are_right() -> None:
    own = {"host": "ui.example.org", "content_type": "application/json"}
    assert judge(asked("POST", origin="https://ui.example.org", **own), PUBLIC) is None
    assert judge(asked("POST", origin="http://ui.example.org", **own), PUBLIC) is not None
    assert judge(asked("POST", origin="https://ui.example.org:8443", **own), PUBLIC) is not None
    assert (
        judge(
            asked("POST", host="192.168.1.5:3000", origin="http://192.168.1.5:3000", content_type="application/json"),
            PUBLIC,
        )
        is None
    )
    assert judge(asked("POST", host="other.example.org", content_type="application/json"), PUBLIC) is not None


def test_other_machines_reach_no_ui_without_a_password() -> None:
    for host in ("0.0.0.0", "::", "192.168.1.5", "server.example.org"):
        for environment in ({}, {"UI_PASSWORD": "<AT LEAST 12 CHARACTERS>"}, {"UI_PASSWORD": "short"}):
            with pytest.raises(SettingsError, match="password") as caught:
                ui_access(environment, host)
            assert "UI_PASSWORD" in str(caught.value)
            assert "short" not in str(caught.value).split(" than ")[0].replace("shorter", "")
        assert ui_access({"UI_PASSWORD": "a-password-of-some-length"}, host).password
    for host in ("127.0.0.1", "localhost", "::1", "127.8.8.8"):
        assert ui_access({}, host).password == ""
    with pytest.raises(SettingsError, match="neither a host name nor an origin"):
        ui_access({"UI_ALLOWED_HOSTS": "*.example.org"}, "127.0.0.1")
