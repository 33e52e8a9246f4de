"""Very many findings: bounded in memory, and no error hidden behind warnings."""

from __future__ import annotations

from pathlib import Path

import pytest

from backup_pipeline.errors import ValidationError
from backup_pipeline.sources.orders.format import order as model
from backup_pipeline.sources.orders.format.order import DATA_NAME, Findings
from backup_pipeline_tests.support.orders_samples import Workshop, kinds, order


def test_errors_are_kept_however_many_warnings_came_before_them() -> None:
    findings = Findings(limit=3)
    for number in range(10):
        findings.add(f"w{number}", "schema", "a plate", "warning")
    for number in range(5):
        findings.add(f"e{number}", "checksum", "another one")
    assert [finding.path for finding in findings.kept] == ["w0", "w1", "w2", "e0", "e1", "e2"]
    assert (findings.warnings, findings.errors, findings.omitted) == (10, 5, 9)
    assert findings.errors_of("checksum", "missing") == 5
    assert findings.errors_of("schema") == 0
    assert [finding.level for finding in findings.worst_first()] == ["error"] * 3 + ["warning"] * 3


def test_verify_names_a_damaged_order_among_odd_plates_and_the_restore_stops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model, "KEPT_FINDINGS", 5)
    workshop = Workshop(tmp_path, [order(i, kennzeichen="??") for i in range(1, 21)])
    workshop.export()
    (workshop.archive / "2024" / "000017" / DATA_NAME).write_bytes(b"x")
    result = workshop.verify()
    assert kinds(result) == {"checksum": ["2024/000017"]}
    with pytest.raises(ValidationError, match="2024/000017"):
        result.raise_for_failure("here")
    with pytest.raises(ValidationError, match=r"1 invalid and 0 missing.*2024/000017"):
        workshop.restore(tmp_path / "new.db")
