"""A sensor for new, dropped and altered tables, and databases of servers, between two backups."""

import hashlib
import json

import dagster as dg

from backup_pipeline.operations.backup.schema_watch import compare_schemas
from backup_pipeline.orchestration.metadata import table_of
from backup_pipeline.orchestration.names import PLAN_TAG, source_key
from backup_pipeline.settings.site import Site
from backup_pipeline.sources.registry import kind_of

SECONDS = 1800


def has_databases(site: Site, plan: str) -> bool:
    """Return whether a plan has a source whose schema can change."""
    return any(kind_of(site, name)[0].watches_tables() for name in site.plan(plan).sources)


def schema_sensor(site: Site, plan: str) -> dg.SensorDefinition:
    """Return the sensor; each state of the schemas is reported once, as an observation of the source's asset."""

    @dg.sensor(
        name=f"{plan}_schema_sensor",
        minimum_interval_seconds=SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=f"New, gone and altered tables of plan {plan} (and databases of its servers) since its last set, "
        "and what to do about them.",
        tags={PLAN_TAG: plan},
    )
    def sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        compared = compare_schemas(site, plan)
        rows = [
            {"source": c.source, "table": c.table, "change": c.change, "what to do": c.remedy} for c in compared.changes
        ]
        state = hashlib.sha256(json.dumps(rows).encode()).hexdigest()
        silent = f" No answer from: {', '.join(compared.silent)}." if compared.silent else ""
        if not rows or state == context.cursor:
            return dg.SkipReason(
                f"{len(rows)} changes since the last set, reported before.{silent}"
                if rows
                else f"The schemas are as in the last set.{silent}"
            )
        for row in rows:
            context.log.warning(f"{row['source']}: {row['table']} {row['change']}. {row['what to do']}")
        events = [
            dg.AssetObservation(
                source_key(plan, source),
                description="The schema has changed since the last set.",
                metadata={"changes": table_of([row for row in rows if row["source"] == source])},
            )
            for source in sorted({row["source"] for row in rows})
        ]
        return dg.SensorResult(asset_events=events, cursor=state)

    return sensor
