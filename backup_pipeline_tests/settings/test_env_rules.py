"""Judging variables: placeholders, weak and demo secrets, Supabase's keys."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from datetime import datetime, timedelta

import pytest

from backup_pipeline.model.record import Severity
from backup_pipeline.rules.environment import (
    EnvironmentFault,
    Form,
    Need,
    is_placeholder,
    need_faults,
    secret_faults,
    unfilled_faults,
    weakness,
)
from backup_pipeline.rules.supabase_keys import DEMO_JWT_SECRET, KEY_LIFETIME, is_signed_with, make_key, read_key
from backup_pipeline.settings.env_template import TEMPLATE_VARIABLES
from backup_pipeline_tests.support.sites import NOW, SECRET

# As published in Supabase's example of a self-hosted project, for everybody to read.
DEMO_ANON = (
    "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyAgCiAgICAicm9sZSI6ICJhbm9uIiwKICAgICJpc3MiOiAic3VwYWJhc2UtZGVtbyIsCiAgICAia"
    "WF0IjogMTY0MTc2OTIwMCwKICAgICJleHAiOiAxNzk5NTM1NjAwCn0.dc_X5iR_VP_qT0zsiyj_I_OZ2T9FtRU2BBNWN8Bu4GE"
)


@pytest.mark.parametrize(
    "value",
    [
        *(variable.example for variable in TEMPLATE_VARIABLES),
        "changeme",
        "CHANGE_ME",
        "change-this",
        "example",
        "xxx",
        "XXXXXX",
        "...",
        "todo",
        "your-password",
        "your_key",
        "postgresql://postgres:[YOUR-PASSWORD]@db.abc.supabase.co:5432/postgres",
        "postgresql://postgres:your-password@h:5432/d",
        "postgresql://USER:PASSWORD@h/d",
        "postgresql://u:p@db.example.com:5432/d",
        "postgresql://u:${PASSWORD}@h/d",
        "postgresql://u:changeme@h/d",
        "your-api-key-here",
        "your_api_key_here",
        "<todo>",
        "TODO: ask Ann",
        "change_me_please",
        "PUT_YOUR_KEY_HERE",
        "insert your key",
        "{{ vault.key }}",
        "__SECRET__",
        "sk-xxxxxxxx",
        "api_key_here",
        "[INSERT KEY]",
        "***",
        "REPLACE_ME",
        "your-super-secret-and-long-postgres-password",
        "this_password_is_insecure_and_should_be_updated",
    ],
)
def test_a_placeholder_is_not_a_value(value):
    assert is_placeholder(value)


@pytest.mark.parametrize(
    "value",
    [
        "postgresql://u:p@127.0.0.1:5432/example",
        "postgresql://example:Xk3@h/d",
        "jdbc:postgresql://kc-db:5432/keycloak",
        "postgresql://todo:x@h/todo_app",
        "host=h dbname=d user=u password=xxY",
        "keycloak",
        SECRET,
        "axxxb",
        "https://hc-ping.com/0b1c",
        "postgresql://u:p@exampledb:5432/d",
        "change-management",
        "yourself",
        "http://host/here",
        "exchange",
        "todoist",
        "replacement-part",
        "xxl",
    ],
)
def test_a_real_value_that_only_looks_like_one_is_taken(value):
    assert not is_placeholder(value)


def test_missing_empty_and_placeholder_are_told_apart_and_named_together():
    needs = [Need(("A", "B"), "source a", Form.DSN), Need(("C",), "source c"), Need(("D",), "source d")]
    found = need_faults(needs, {"C": " ", "D": "changeme"})
    assert [(fault.where, fault.what) for fault in found] == [
        ("A or B", "not set (needed by source a)"),
        ("C", "empty (needed by source c)"),
        ("D", "still a placeholder (needed by source d)"),
    ]
    assert all(fault.severity is Severity.ERROR and fault.remedy for fault in found)


def test_the_first_set_variable_counts_even_when_the_second_is_a_placeholder():
    assert need_faults([Need(("A", "B"), "source a")], {"A": "value", "B": "changeme"}) == []
    assert need_faults([Need(("A", "B"), "source a")], {"A": "", "B": "value"}) == []


@pytest.mark.parametrize(
    ("form", "value", "good"),
    [
        (Form.URL, "https://hc-ping.com/x", True),
        (Form.URL, "hc-ping.com/x", False),
        (Form.URL, "ftp://h/x", False),
        (Form.URLS, "mailtos://u:p@h ntfys://h/t", True),
        (Form.URLS, "mailtos://u:p@h ops", False),
    ],
)
def test_a_url_of_the_wrong_form_is_a_fault(form, value, good):
    assert (need_faults([Need(("X",), "y", form)], {"X": value}) == []) is good


@pytest.mark.parametrize(
    "secret", ["geheim", "Password123!", "postgres", "aaaaaaaaaaaaaaaa", "kurz7Xq", "123456789012345"]
)
def test_a_weak_password_is_called_weak(secret):
    assert weakness(secret)


def test_a_random_password_is_not_weak():
    assert weakness(SECRET) == ""


def test_a_key_is_a_signed_token_that_anybody_can_check():
    key = make_key("anon", SECRET, NOW)
    head, body, signature = key.split(".")

    def decode(part: str) -> bytes:
        return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))

    assert json.loads(decode(head)) == {"alg": "HS256", "typ": "JWT"}
    assert json.loads(decode(body)) == {
        "role": "anon",
        "iss": "supabase",
        "iat": int(NOW.timestamp()),
        "exp": int((NOW + KEY_LIFETIME).timestamp()),
    }
    assert decode(signature) == hmac.digest(SECRET.encode(), f"{head}.{body}".encode(), hashlib.sha256)
    assert is_signed_with(key, SECRET)
    assert not is_signed_with(key, SECRET + "x")


def test_a_published_demo_key_is_read_and_verified_with_the_published_secret():
    assert read_key(DEMO_ANON)["role"] == "anon"
    assert is_signed_with(DEMO_ANON, DEMO_JWT_SECRET)


def _reported(environment: dict[str, str], now: datetime = NOW) -> dict[str, str]:
    return {fault.where: fault.what for fault in secret_faults(environment, now)}


def test_good_secrets_have_no_faults():
    keys = {
        "ANON_KEY": make_key("anon", SECRET, NOW),
        "SERVICE_ROLE_KEY": make_key("service_role", SECRET, NOW),
    }
    assert _reported({"JWT_SECRET": SECRET, "POSTGRES_PASSWORD": SECRET, **keys}) == {}


def test_demo_secrets_and_keys_are_recognised():
    reported = _reported({"JWT_SECRET": DEMO_JWT_SECRET, "ANON_KEY": DEMO_ANON, "POSTGRES_PASSWORD": "postgres"})
    assert "demo secret" in reported["JWT_SECRET"]
    assert "demo key" in reported["ANON_KEY"]
    assert "weak" in reported["POSTGRES_PASSWORD"]


def test_a_key_of_another_secret_or_role_or_time_is_a_fault():
    assert (
        "not signed with JWT_SECRET"
        in _reported({"JWT_SECRET": SECRET, "ANON_KEY": make_key("anon", "x" * 40, NOW)})["ANON_KEY"]
    )
    assert (
        "another role"
        in _reported({"JWT_SECRET": SECRET, "ANON_KEY": make_key("service_role", SECRET, NOW)})["ANON_KEY"]
    )
    old = make_key("anon", SECRET, NOW - KEY_LIFETIME - timedelta(days=1))
    assert _reported({"JWT_SECRET": SECRET, "ANON_KEY": old})["ANON_KEY"] == "expired"
    assert "not a token" in _reported({"ANON_KEY": "abc"})["ANON_KEY"]


def test_production_turns_weak_secrets_into_errors():
    (weak,) = secret_faults({"POSTGRES_PASSWORD": "postgres"}, NOW)
    assert weak.severity is Severity.WARN
    assert weak.graded(production=True).severity is Severity.ERROR
    plain = EnvironmentFault("x", "y", "z", Severity.WARN)
    assert plain.graded(production=True).severity is Severity.WARN


def test_no_value_is_ever_in_a_fault():
    secrets = {"JWT_SECRET": "kurz-geheim", "ANON_KEY": "abc.geheim.def", "POSTGRES_PASSWORD": "geheim1"}
    text = str([fault.as_dict() for fault in secret_faults(secrets, NOW)])
    assert "geheim" not in text


def test_a_placeholder_is_found_in_every_variable_of_the_file():
    variables = {
        "OPENAI_API_KEY": "your-api-key-here",
        "SENTRY_DSN": "<todo>",
        "SMTP_PASSWORD": "CHANGE_ME",
        "EMPTY": "",
        "SMTP_AUTH": "none",
        "STRIPE_KEY": "sk-xxxx",
        "MAIL_FROM": "me@shop.de",
        "JUDGED": "changeme",
        "URL": "postgresql://app:your-password@db/app",
    }
    found = unfilled_faults(variables, ["JUDGED"])
    assert [fault.where for fault in found] == ["OPENAI_API_KEY", "SENTRY_DSN", "SMTP_PASSWORD", "STRIPE_KEY", "URL"]
    assert {fault.graded(production=True).severity for fault in found} == {Severity.ERROR}
