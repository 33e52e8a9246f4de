"""Every kind of source says which of its values are secret, and no message holds one, however it is written."""

from __future__ import annotations

from pathlib import Path

import pytest

from backup_pipeline.operations.alerts import hidden_texts
from backup_pipeline.rules.incidents import scrub
from backup_pipeline.settings.loader import load_site
from backup_pipeline.settings.types import SOURCE_KINDS

# Fields that name variables whose values everybody may see.
PUBLIC = {"user_env"}


def test_every_field_that_names_a_variable_is_said_to_be_secret_or_public() -> None:
    for kind, settings in SOURCE_KINDS.items():
        named = {field for field in settings.model_fields if field.endswith("_env") and field != "include_env"}
        assert named - PUBLIC == set(settings.secret_fields), kind


@pytest.mark.parametrize(("written", "secret"), [
    ("host=h dbname=d user=u password=s3cret-Word", "s3cret-Word"),
    ("host=h password = 's3 cret\\' Word' dbname=d", "s3 cret' Word"),
    ("host=h PASSWORD=s3cret-Word sslpassword=oth3r-Word", "oth3r-Word"),
    ("postgresql://u@h/d?password=s3cret%40Word&sslmode=require", "s3cret@Word"),
    ("postgresql://u:s3cret%40Word@h/d", "s3cret@Word"),
    ("jdbc:postgresql://h/d?user=u&password=s3cretWord", "s3cretWord"),
])  # fmt: skip
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
