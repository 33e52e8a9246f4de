"""Dagster, and only here: assets, checks, partitions, jobs, schedules, sensors, resources."""
