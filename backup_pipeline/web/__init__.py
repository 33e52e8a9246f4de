"""The page before Dagster: who may use the UI, from where, and with which password."""
