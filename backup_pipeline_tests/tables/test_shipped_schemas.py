"""The project's own schemas: those that mean a table, and those that only have its name."""

from __future__ import annotations

import subprocess
import sys

import pyarrow as pa

from backup_pipeline.tables.schemas import shipped_schema

TRADES = ("order_id", "symbol", "side", "quantity", "execution_price", "executed_at")


def test_a_shipped_schema_means_tables_with_all_of_its_columns() -> None:
    fields = [pa.field(name, pa.string()) for name in (*TRADES, "more")]
    found = shipped_schema("trades", fields)
    assert found is not None
    assert set(found.columns) == set(TRADES)
    assert shipped_schema("trades", fields[1:]) is None
    assert shipped_schema("nothing", fields) is None


def test_a_schema_for_other_columns_is_no_reason_to_load_pandera() -> None:
    # Loading it takes longer than the capture of a small database.
    script = """
import sys
import pyarrow as pa
from backup_pipeline.tables.schemas import shipped_schema
print(shipped_schema("trades", [pa.field("id", pa.int64())]), {"pandera", "pandas"} & set(sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert done.stdout == "None set()\n"
