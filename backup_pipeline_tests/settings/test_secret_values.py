"""Every kind of source says which of its values are secret, and no message holds one, however it is written."""

from __future__ import annotations

import io
import itertools
import json
import logging
from pathlib import Path

import pytest

from backup_pipeline.errors import SourceError
from backup_pipeline.operations.alerts.send import hidden_texts
from backup_pipeline.redaction import hide, may_hold_secrets, redacted, redacted_values, redacting_hook, scrub
from backup_pipeline.settings.loader import load_site
from backup_pipeline.settings.types import source_kinds
from backup_pipeline_tests.support.sites import TestSite

# Fields that name variables whose values everybody may see.
PUBLIC = {"user_env"}


def test_every_field_that_names_a_variable_is_said_to_be_secret_or_public() -> None:
    for kind, settings in source_kinds().items():
        named = {field for field in settings.model_fields if field.endswith("_env") and field != "include_env"}
        assert named - PUBLIC == set(settings.secret_fields), kind


@pytest.mark.parametrize(
    ("written", "secret"),
    [
        ("host=h dbname=d user=u password=s3cret-Word", "s3cret-Word"),
        ("host=h password = 's3 cret\\' Word' dbname=d", "s3 cret' Word"),
        ("host=h PASSWORD=s3cret-Word sslpassword=oth3r-Word", "oth3r-Word"),
        ("postgresql://u@h/d?password=s3cret%40Word&sslmode=require", "s3cret@Word"),
        ("postgresql://u:s3cret%40Word@h/d", "s3cret@Word"),
        ("jdbc:postgresql://h/d?user=u&password=s3cretWord", "s3cretWord"),
    ],
)
def test_a_password_goes_out_in_no_form_and_from_no_variable(tmp_path: Path, written: str, secret: str) -> None:
    (tmp_path / "backup.yaml").write_text(
        "sources:\n"
        "  werkstatt: {kind: orders, dsn_env: ORDERS_PLACE, archive: Archiv}\n"
        "  shop: {kind: postgres, dsn_env: SHOP}\n"
        "plans: {nightly: {sources: [werkstatt, shop]}}\n"
    )
    for variable in ("ORDERS_PLACE", "SHOP", "NOT_NAMED_ANYWHERE"):
        hidden = hidden_texts(load_site(tmp_path, environment={variable: written}))
        assert secret not in scrub(f"connection failed: {written} and {secret}, really", hidden), variable
        assert scrub("the host h of d is down", hidden) == "the host h of d is down"


@pytest.mark.parametrize(
    ("reported", "safe"),
    [
        ("cannot clone https://deploy:ghp_abc@git.example/x", "cannot clone https://deploy:***@git.example/x"),
        ("cannot clone https://ghp_abcdefgh@git.example/x", "cannot clone https://***@git.example/x"),
        ("no route to postgresql://shop@db/shop", "no route to postgresql://shop@db/shop"),
        ("jdbc:postgresql://h/d?user=u&password=abc failed", "jdbc:postgresql://h/d?user=u&password=*** failed"),
        ("\"host=h password='a b' dbname=d\"", '"host=h password=*** dbname=d"'),
        ("Use the form postgresql://USER:PASSWORD@HOST/DB.", "Use the form postgresql://USER:PASSWORD@HOST/DB."),
        ("Set UI_PASSWORD=… or password=<yours>", "Set UI_PASSWORD=… or password=<yours>"),
    ],
)
def test_passwords_in_addresses_are_taken_out_wherever_they_come_from(reported: str, safe: str) -> None:
    assert redacted(reported) == safe
    assert str(SourceError(reported, where=reported, remedy=reported)) == f"{safe}: {safe} Remedy: {safe}"


def test_log_records_and_tracebacks_hold_no_secret_and_words_of_the_site_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "backup.yaml").write_text(
        "sources: {shop: {kind: postgres, dsn_env: SHOP}, files: {kind: folder, path: files}}\n"
        "plans: {nightly: {sources: [shop, files]}}\n"
    )
    load_site(tmp_path, environment={"SHOP": "postgresql://u:s3cret-Word@h/d", "A_TOKEN": "files", "B_KEY": "nightly"})
    written = io.StringIO()
    handler = logging.StreamHandler(written)
    log = logging.getLogger("a library")
    log.addHandler(handler)
    try:
        log.error("the server said %r", "wrong: s3cret-Word")
        try:
            raise ValueError("s3cret-Word is wrong")
        except ValueError as error:
            log.exception("files of nightly failed")
            monkeypatch.setattr("sys.stderr", written)
            redacting_hook(lambda *_: written.write("as it was"))(type(error), error, error.__traceback__)
            plain = KeyError("files")
            redacting_hook(lambda *_: written.write("as it was"))(type(plain), plain, None)
    finally:
        log.removeHandler(handler)
    reported = written.getvalue()
    assert "s3cret-Word" not in reported
    assert "the server said 'wrong: ***'" in reported
    assert "files of nightly failed\nTraceback" in reported
    assert reported.count("ValueError: *** is wrong") == 2
    assert reported.endswith("as it was")


def test_no_file_of_a_site_holds_what_a_failing_server_or_program_repeats(tmp_path: Path) -> None:
    site = TestSite(tmp_path)
    secrets = {"shop": "Sh0p-Word-1", "orders": "0rders 'Word", "deploy": "tok_Deploy1", "git": "tok_Git1234"}
    site.variables = {
        "SHOP_URL": f"jdbc:postgresql://127.0.0.1:1/shop?user=u&password={secrets['shop']}",
        "DEPLOY": secrets["deploy"],
    }
    (tmp_path / "files").mkdir()
    (tmp_path / "Archiv").mkdir()
    git = f"https://bot:{secrets['git']}@127.0.0.1:1/x"
    site.write(
        "sources:\n"
        "  shop: {kind: postgres, dsn_env: SHOP_URL}\n"
        "  werkstatt: {kind: orders, dsn_env: ORDERS_PLACE, archive: Archiv}\n"
        "  files: {kind: folder, path: files, run_before: [{run: [sh, -c, 'echo \"login: $DEPLOY_TOKEN\"; exit 3'],"
        " env: [DEPLOY_TOKEN]}]}\n"
        f"  code: {{kind: folder, path: files, run_before: [{{run: [git, ls-remote, '{git}']}}]}}\n"
        "plans: {nightly: {sources: [shop, werkstatt, files, code]}}\n"
    )
    quoted = secrets["orders"].replace("'", "\\'")
    (tmp_path / ".env").write_text(
        f"SHOP_URL='{site.variables['SHOP_URL']}'\nDEPLOY_TOKEN='{secrets['deploy']}'\n"
        f"ORDERS_PLACE=\"host=127.0.0.1 port=1 dbname=d user=u password='{quoted.replace(chr(92), chr(92) * 2)}'\"\n"
    )
    done = site.run("backup", "nightly")
    assert done.code != 0
    for source in ("shop", "werkstatt", "files", "code"):
        assert source in done.text
    texts = {"standard output and error": done.text.encode()} | {
        str(path): path.read_bytes()
        for path in tmp_path.rglob("*")
        if path.is_file() and path.name not in (".env", "backup.yaml")
    }
    for name, secret in secrets.items():
        assert [where for where, text in texts.items() if secret.encode() in text] == [], name
    assert "login: ***" in done.text


def test_the_credentials_of_a_vault_go_out_in_no_message_and_may_come_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "backup.yaml").write_text(
        "sources: {files: {kind: folder, path: files}}\n"
        "plans: {nightly: {sources: [files]}}\n"
        "vaults: {offsite: {url: 's3://b/p', credentials_env: {access_key: OFF_ID, secret_key: OFF_SECRET}}}\n"
    )
    (tmp_path / "secret").write_text("s3cret-Word-of-the-vault\n")
    site = load_site(tmp_path, environment={"OFF_ID": "AKIAPUBLIC", "OFF_SECRET_FILE": str(tmp_path / "secret")})
    assert site.value("OFF_SECRET") == "s3cret-Word-of-the-vault"
    told = scrub("AKIAPUBLIC with s3cret-Word-of-the-vault was refused", hidden_texts(site))
    assert told == "AKIAPUBLIC with *** was refused"


_SECRET = 'pass\\w0rd"é'
_PARTS = ("://", "user", ":", "@", _SECRET, "password=", "'", "/", " ", "access_token=abcd", "https")


def test_a_document_that_is_not_read_for_secrets_holds_none() -> None:
    hide([_SECRET])
    try:
        texts = ["".join(parts) for parts in itertools.product(_PARTS, repeat=4)]
        unsafe = [text for text in texts if redacted_values([text]) != [text]]
        assert [text for text in unsafe if not may_hold_secrets(json.dumps([text]))] == []
        assert [text for text in unsafe if not may_hold_secrets(json.dumps([text], ensure_ascii=False))] == []
        assert not may_hold_secrets(json.dumps(["file:///store/a.gz", "shop@db:5432/shop", "rows = 3"]))
    finally:
        hide([])
