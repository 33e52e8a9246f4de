"""Commands on pages run as they stand there."""

from __future__ import annotations

from backup_pipeline.rules.ready_commands import ready_commands


def test_a_command_names_program_settings_and_identity_of_this_site() -> None:
    text = "`backup-pipeline vault kit offsite --identity FILE` prints the page for the safe."
    ready = ready_commands(
        text,
        program="/opt/bin/backup-pipeline",
        config=" --config '/srv/our site/backup.yaml'",
        identity="/mnt/usb/key.txt",
    )
    assert ready == (
        "`/opt/bin/backup-pipeline vault kit offsite --identity /mnt/usb/key.txt "
        "--config '/srv/our site/backup.yaml'` prints the page for the safe."
    )
