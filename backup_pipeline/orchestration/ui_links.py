"""Links within the UI: launchpads that open filled in, and pages of the front door."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from urllib.parse import quote, urlsplit

import dagster as dg
import yaml

from backup_pipeline.model.restore import RestorePlan
from backup_pipeline.orchestration.names import (
    LOCATION_NAME,
    REPOSITORY_NAME,
    restore_job_name,
    restore_op,
    restored_key,
)
from backup_pipeline.orchestration.restore_config import applying
from backup_pipeline.settings.site import Site

FRONT = "backups"


def page_link(site: Site, *parts: str) -> str:
    """Return the address of a page of ours within the UI, from its root on."""
    return "/".join([_prefix(site), FRONT, *(quote(part, safe="") for part in parts)])


def run_page(site: Site, run_id: str) -> str:
    """Return the address of a run's page within the UI."""
    return f"{_prefix(site)}/runs/{run_id}"


def apply_link(site: Site, plan: RestorePlan, partition: str, vault: str = "") -> str:
    """Return the address of a launchpad in which only the target's name must be typed to apply a plan."""
    title = f"Type {plan.confirm} at `confirm`, then launch: {plan.source} is restored from {plan.set_id}."
    return _restore_launchpad(site, plan.plan, plan.source, applying(plan, vault), partition, title)


def start_restore_link(site: Site, plan: str, source: str, partition: str) -> str:
    """Return the address of a launchpad that makes the plan of restoring a source from a set; it changes nothing."""
    title = f"Launching this changes nothing: it shows what a restore of {source} from {partition} would do."
    return _restore_launchpad(site, plan, source, {"step": "plan"}, partition, title)


def _restore_launchpad(
    site: Site, plan: str, source: str, config: Mapping[str, object], partition: str, title: str
) -> str:
    op = restore_op(plan, source)
    text = f"# {title}\n" + yaml.safe_dump({"ops": {op: {"config": dict(config)}}}, sort_keys=False)
    return _launchpad(site, restore_job_name(plan), text, partition, [(restored_key(plan, source), op)])


def _launchpad(site: Site, job: str, config: str, partition: str, assets: Sequence[tuple[dg.AssetKey, str]]) -> str:
    """Return the address that opens a job's launchpad with a configuration, a partition and some of its assets."""
    values = {"config": config, "tags[0][key]": "dagster/partition", "tags[0][value]": partition}
    for number, (key, op) in enumerate(assets):
        values |= {f"assetSelection[{number}][assetKey][path][{n}]": part for n, part in enumerate(key.path)}
        values[f"assetSelection[{number}][opNames][0]"] = op
    query = "&".join(f"{quote(name, safe='[]')}={quote(value, safe='')}" for name, value in values.items())
    location = quote(f"{REPOSITORY_NAME}@{LOCATION_NAME}", safe="@")
    return f"{_prefix(site)}/locations/{location}/jobs/{quote(job, safe='')}/playground/setup?{query}"


def _prefix(site: Site) -> str:
    """Return the path below which the UI is served, "" for the root: that of the address that links in alerts have."""
    return urlsplit(site.value(site.settings.alerts.ui_url_env)).path.rstrip("/")
