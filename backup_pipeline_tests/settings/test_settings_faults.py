"""Every fault of backup.yaml is told at once, with its line, its path and the nearest right name."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from backup_pipeline.errors import ExitCode, SettingsError
from backup_pipeline.settings.loader import check_settings, load_site

GOOD = """\
store: ./backups
sources:
  supabase: {kind: postgres, dsn_env: [DATABASE_URL]}
  storage: {kind: folder, path: storage, after: supabase}
plans:
  nightly:
    sources: [supabase, storage]
    schedule: "0 2 * * *"
timezone: Europe/Berlin
"""


@pytest.fixture
def faults(tmp_path):
    """Return a function that gives the faults of a text as `line: path: what`."""

    def find(text: str) -> list[str]:
        (tmp_path / "backup.yaml").write_text(text)
        return [fault.text("f").removeprefix("f:") for fault in check_settings(tmp_path / "backup.yaml")]

    return find


def test_a_good_file_has_no_faults_and_its_paths_are_absolute(faults, tmp_path):
    assert faults(GOOD) == []
    site = load_site(tmp_path, environment={})
    assert site.settings.store == tmp_path / "backups"
    assert site.settings.sources["storage"].path == tmp_path / "storage"


def test_a_misspelt_setting_is_named_with_its_line_and_the_right_name(faults):
    assert faults(GOOD.replace("dsn_env", "dsn_evn")) == [
        "3: sources.supabase.dsn_env: required, but missing",
        "3: sources.supabase.dsn_evn: unknown setting; did you mean dsn_env?",
    ]


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ("", ""),
        (", required_tables: [a]", "4: sources.supabase.required_tables: is of one database: make that one a source"),
        (", run_before: [[ls]]", "4: sources.supabase.run_before: would be run for each database; write it at the"),
        (", file_name: a.sql.gz", "4: sources.supabase.file_name: must hold {source}: each database has a file"),
        (
            "}\n  supabase_x: {kind: folder, path: x",
            "5: sources.supabase_x: begins with supabase_, as the databases of",
        ),
        (
            "}\n  supabase-x: {kind: folder, path: x",
            "5: sources.supabase-x: begins with supabase_, as the databases of",
        ),
        (", exclud: [a]", "4: sources.supabase.exclud: unknown setting"),
    ],
)
def test_what_cannot_be_of_all_databases_of_a_server_is_a_fault(faults, more, expected):
    given = GOOD.replace("[DATABASE_URL]}", "[DATABASE_URL],\n    databases: {exclude: postgres}" + more + "}")
    found = faults(given)
    assert len(found) == bool(expected)
    assert "".join(found).startswith(expected)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("kind: postgres", "kind: postgress", "3: sources.supabase.kind: no such kind of source: postgress; did you"),
        ("kind: postgres, ", "", "3: sources.supabase: kind is missing; one of postgres, sqlite"),
        ("[supabase, storage]", "[supabase, storag]", "7: plans.nightly.sources.1: there is no source 'storag'; did"),
        ("[supabase, storage]", "[supabase, storage, storage]", "7: plans.nightly.sources.2: storage stands twice"),
        ("[supabase, storage]", "[storage]", "7: plans.nightly.sources.0: storage waits for supabase (after), which"),
        ('"0 2 * * *"', '"0 2 * * *"\n    overdue_after: 0h', "9: plans.nightly.overdue_after: must be more than zero"),
        (
            '"0 2 * * *"',
            '"0 2 * * *"\n    overdue_after: 36501d',
            "9: plans.nightly.overdue_after: at most a hundred years",
        ),
        (
            '"0 2 * * *"',
            f'"0 2 * * *"\n    overdue_after: {"9" * 30}w',
            "9: plans.nightly.overdue_after: at most a hundred",
        ),
        ("[supabase, storage]", "[]", "7: plans.nightly.sources: must name at least 1"),
        (
            "[supabase, storage]",
            "[supabase/shop]",
            "7: plans.nightly.sources.0: supabase does not stand for",
        ),
        ("after: supabase", "after: shop/a", "4: sources.storage.after: there is no source 'shop/a'"),
        ("after: supabase", "after: supabse", "4: sources.storage.after: there is no source 'supabse'; did you mean"),
        ("after: supabase", "after: [storage]", "4: sources.storage.after.0: a source cannot wait for itself"),
        ("after: supabase", "after: supabase, buckets: [../x]", "4: sources.storage.buckets.0: a bucket is a folder"),
        ('"0 2 * * *"', '"0 25 * * *"', "8: plans.nightly.schedule: not a cron expression"),
        ('"0 2 * * *"', '"0 2 * *"', "8: plans.nightly.schedule: a cron expression has five fields"),
        ('"0 2 * * *"', '"0 2 30 2 *"', "8: plans.nightly.schedule: not a cron expression"),
        ('"0 2 * * *"', '"@dayly"', "8: plans.nightly.schedule: not a cron expression; did you mean @daily?"),
        ("Europe/Berlin", "Europe/Berln", "9: timezone: no such time zone: Europe/Berln; did you mean Europe/Berlin?"),
        (
            "[DATABASE_URL]",
            "[DATABASE_URL], tables: {include: orders}",
            "3: sources.supabase.tables.include: a pattern",
        ),
        ("timezone: Europe/Berlin", "file_mode: 0600", '9: file_mode: put it in quotes, as in "0600"'),
        ("timezone: Europe/Berlin", "password: geheim", "9: password: unknown setting; secrets stand in .env"),
        ("  nightly:", "  night-ly:", "6: plans.night-ly: not a usable name"),
        (
            "  nightly:",
            "  off:",
            "5: plans.0: not a name: YAML reads off, on, yes, no and numbers so; put it in quotes",
        ),
    ],
)
def test_a_fault_is_told_with_line_path_and_remedy(faults, old, new, expected):
    assert old in GOOD
    found = faults(GOOD.replace(old, new))
    assert len(found) == 1
    assert found[0].startswith(expected)


def test_a_circle_of_after_is_named_once_with_its_way(faults):
    text = GOOD.replace("dsn_env: [DATABASE_URL]", "dsn_env: [DATABASE_URL], after: storage")
    assert faults(text) == ["3: sources.supabase.after: goes round in a circle: supabase → storage → supabase"]


def test_a_key_that_stands_twice_is_a_fault_and_not_silently_the_last(faults):
    assert faults(GOOD + "store: ./other\n") == ["10: store: stands twice; first in line 1"]


def test_every_tab_of_the_indentation_is_named(faults):
    assert faults("sources:\n\tsupabase:\n\t\tkind: x\n") == [
        "2: a tab in the indentation; YAML allows spaces only",
        "3: a tab in the indentation; YAML allows spaces only",
    ]


def test_brackets_without_end_are_a_fault(faults):
    assert faults("[" * 50_000) == ["1: nested deeper than any settings are"]


def test_an_unquoted_cron_expression_that_begins_with_a_star_is_explained(faults):
    (found,) = faults(GOOD.replace('"0 2 * * *"', "*/5 * * * *"))
    assert found.startswith("8: not YAML")
    assert "in quotes" in found


@pytest.mark.parametrize("text", ["", "# nothing\n", "just text\n", "- a\n- b\n", "sources: 3\nplans: []\n"])
def test_a_file_of_another_shape_is_a_fault_and_not_a_crash(faults, text):
    assert faults(text)


def test_two_plans_with_one_store_are_refused(faults):
    text = GOOD + "  # end\n"
    text = text.replace("timezone", "  hourly: {sources: [supabase], store: ./backups/nightly}\ntimezone")
    (found,) = faults(text)
    assert found.startswith("9: plans.hourly.store: has the same store as plan nightly")


def test_a_store_inside_a_captured_folder_is_refused(faults):
    (found,) = faults(GOOD.replace("path: storage", "path: ."))
    assert found.startswith("4: sources.storage.path: holds the store of plan nightly")


def test_an_order_archive_needs_exactly_one_database(faults):
    base = GOOD.replace("plans:", "  w: {kind: orders, archive: Archiv%s}\nplans:")
    assert "neither is given" in faults(base % "")[0]
    assert "one database" in faults(base % ", database: w.db, dsn_env: X")[0]
    assert faults(base % ", database: w.db") == []


def test_a_secret_in_the_place_of_a_variables_name_is_not_repeated(faults):
    (found,) = faults(GOOD.replace("[DATABASE_URL]", '"postgresql://u:geheim@h/d"'))
    assert "must be the name of a variable" in found
    assert "geheim" not in found


def test_all_faults_come_together_in_one_error_with_the_exit_code_of_settings(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = GOOD.replace("dsn_env", "dsn_evn").replace("0 2 *", "0 25 *").replace("Berlin", "Berln")
    (tmp_path / "backup.yaml").write_text(text + "store: x\n")
    with pytest.raises(SettingsError) as raised:
        load_site()
    error = raised.value
    assert error.exit_code is ExitCode.SETTINGS
    assert error.what.splitlines()[0] == "5 faults."
    assert "backup.yaml:3: sources.supabase.dsn_evn: unknown setting; did you mean dsn_env?" in error.what
    assert [line.split(":")[1] for line in error.what.splitlines()[1:]] == ["3", "3", "8", "9", "10"]


def test_one_fault_names_its_line_as_the_place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "backup.yaml").write_text(GOOD.replace("Berlin", "Berln"))
    with pytest.raises(SettingsError) as raised:
        load_site()
    assert raised.value.where == "backup.yaml:9"
    assert raised.value.what.startswith("timezone: no such time zone")


def test_loading_the_settings_imports_nothing_heavy(tmp_path):
    (tmp_path / "backup.yaml").write_text(GOOD)
    program = (
        "import sys; from pathlib import Path; from backup_pipeline.settings.loader import load_site;"
        f"load_site(Path({str(tmp_path)!r}), environment={{}});"
        "heavy = ('dagster', 'pandas', 'psycopg', 'pyarrow', 'croniter', 'apprise', 'requests');"
        "print([m for m in heavy if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# --- variables ------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "backup.yaml").write_text(GOOD)
    return tmp_path


def test_the_process_wins_over_the_env_file(folder):
    (folder / ".env").write_text("DATABASE_URL=from-file\nOTHER=kept\n")
    site = load_site(folder, environment={"DATABASE_URL": "from-process"})
    assert site.environment["DATABASE_URL"] == "from-process"
    assert site.environment["OTHER"] == "kept"


def test_a_variable_may_be_given_by_a_file_that_holds_it(folder):
    (folder / "secret").write_text("postgresql://u:p@h/d\n")
    site = load_site(folder, environment={"DATABASE_URL_FILE": str(folder / "secret")})
    assert site.environment["DATABASE_URL"] == "postgresql://u:p@h/d"


def test_other_variables_that_end_in_file_are_left_alone(folder):
    site = load_site(folder, environment={"SSL_CERT_FILE": "/does/not/exist"})
    assert "SSL_CERT" not in site.environment


def test_a_secret_file_that_cannot_be_read_is_named(folder):
    with pytest.raises(SettingsError, match="DATABASE_URL_FILE"):
        load_site(folder, environment={"DATABASE_URL_FILE": str(folder / "missing")})


def test_a_variable_and_its_file_at_once_are_refused(folder):
    (folder / "secret").write_text("x")
    with pytest.raises(SettingsError, match="Both DATABASE_URL and DATABASE_URL_FILE"):
        load_site(folder, environment={"DATABASE_URL": "y", "DATABASE_URL_FILE": str(folder / "secret")})


def test_a_variable_of_the_process_wins_over_a_file_named_in_the_env_file(folder):
    (folder / "secret").write_text("from-secret")
    (folder / ".env").write_text(f"DATABASE_URL_FILE={folder / 'secret'}\n")
    assert load_site(folder, environment={}).environment["DATABASE_URL"] == "from-secret"
    assert load_site(folder, environment={"DATABASE_URL": "mine"}).environment["DATABASE_URL"] == "mine"


VAULTS = """
vaults:
  offsite: {url: "s3://bucket/prefix", recipients: [age1xyz]}
  attic: {url: "file:///mnt/attic", recipients: [age1xyz]}
"""


@pytest.mark.parametrize(
    ("copies", "expected"),
    [
        ("[{to: offsit}]", "9: plans.nightly.copies.0.to: there is no vault 'offsit'; did you mean offsite?"),
        ("[{to: attic}, {to: attic}]", "9: plans.nightly.copies.1.to: attic stands twice; a set has one copy"),
        ("[{to: attic, drill: '0 6 1 *'}]", "9: plans.nightly.copies.0.drill: a cron expression has five fields"),
        ("[{to: attic, check: never}]", "9: plans.nightly.copies.0.check: a cron expression has five fields"),
        ("[{to: attic, retain: {}}]", "9: plans.nightly.copies.0.retain: unknown setting"),
        ("{to: attic}", "9: plans.nightly.copies: write a list, as in [{to: offsite}]"),
    ],
)
def test_faults_of_copies_are_named_with_line_and_remedy(faults, copies, expected):
    text = GOOD.replace('"0 2 * * *"\n', f'"0 2 * * *"\n    copies: {copies}\n') + VAULTS
    assert any(fault.startswith(expected) for fault in faults(text)), faults(text)


def test_a_vault_that_is_described_nowhere_is_named_with_the_remedy(faults):
    text = GOOD.replace('"0 2 * * *"\n', '"0 2 * * *"\n    copies: [{to: offsite}]\n')
    assert faults(text) == [
        "9: plans.nightly.copies.0.to: there is no vault 'offsite'; describe it under vaults (docs/settings.md)"
    ]


def test_copies_are_read_with_their_retention_and_schedules(tmp_path):
    entry = '[{to: offsite, retention: {keep_daily: 30, keep_yearly: 5}, drill: "0 6 1 * *", check: "0 7 * * 0"}]'
    (tmp_path / "backup.yaml").write_text(GOOD.replace('"0 2 * * *"\n', f'"0 2 * * *"\n    copies: {entry}\n') + VAULTS)
    [copies] = load_site(tmp_path, environment={}).plan("nightly").copies
    assert (copies.to, copies.retention.keep_daily, copies.retention.keep_yearly) == ("offsite", 30, 5)
    assert (copies.drill, copies.check) == ("0 6 1 * *", "0 7 * * 0")


def test_a_vault_inside_of_a_captured_folder_is_a_fault(faults, tmp_path):
    inside = f"file://{tmp_path}/storage/vault"
    [fault] = faults(GOOD + VAULTS.replace("file:///mnt/attic", inside))
    assert fault.startswith("4: sources.storage.path: holds the vault attic")
