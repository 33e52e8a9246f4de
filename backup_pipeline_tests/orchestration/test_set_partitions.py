"""Partitions of sets that are gone: they go too, once no run needs them."""

from __future__ import annotations

from pathlib import Path

import dagster as dg

from backup_pipeline.orchestration.build import build_definitions
from backup_pipeline.orchestration.names import sets_partitions
from backup_pipeline.orchestration.set_partitions import synchronise_partitions
from backup_pipeline_tests.support.invented_sets import SITE
from backup_pipeline_tests.support.sites import TestSite


def test_a_partition_of_a_set_that_is_gone_stays_while_a_run_needs_it(
    tmp_path: Path, instance: dg.DagsterInstance
) -> None:
    site = TestSite(tmp_path)
    site.write(SITE)
    name = str(sets_partitions("nightly").name)
    in_a_vault, gone = "2026-11-21T020000Z", "2026-11-20T020000Z"
    instance.add_dynamic_partitions(name, [in_a_vault, gone])
    job = build_definitions(site.site).resolve_job_def("nightly_verification")
    run = instance.create_run_for_job(job, status=dg.DagsterRunStatus.STARTED, tags={"dagster/partition": in_a_vault})
    synchronise_partitions(site.site, "nightly", instance)
    assert instance.get_dynamic_partitions(name) == [in_a_vault]
    instance.report_run_failed(run)
    synchronise_partitions(site.site, "nightly", instance)
    assert instance.get_dynamic_partitions(name) == []
