"""Asset checks that follow from how a source is captured; those of each artefact are its type's.

What a check does stands with the artefact (`artefacts`, `rules`); a check of a record that is not named here is shown
as an event.
"""

from collections.abc import Mapping

TABLES_KNOWN = "tables_all_known"
TABLES_KNOWN_DESCRIPTION = (
    "Every table that was known when the definitions were loaded is still there; new ones are listed."
)
TABLES_DESCRIPTION = "All exported tables of the source, each with files and a record of its own in the set."

# By format: what is checked beside the above when tables are exported in it.
EXPORTED_AS: Mapping[str, Mapping[str, str]] = {
    "jsonl": {"json_lines_match_snapshot": "There are as many JSON lines as rows in the snapshot."},
    "json": {"json_rows_match_snapshot": "There are as many objects in the JSON array as rows in the snapshot."},
    "csv": {"csv_rows_match_snapshot": "There are as many rows in the CSV file as in the snapshot."},
}
