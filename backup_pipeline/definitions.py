"""The Definitions object that Dagster loads: the site of BACKUP_PIPELINE_CONFIG or ./backup.yaml."""

import dagster as dg

from backup_pipeline.orchestration.build import build_definitions
from backup_pipeline.settings.loader import load_site


@dg.definitions
def defs() -> dg.Definitions:
    """Build the definitions when Dagster asks for them, not at import."""
    return build_definitions(load_site())
