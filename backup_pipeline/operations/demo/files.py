"""The demo's files: storage buckets, a workshop's orders with a PDF each, a git repository. Content only."""

from __future__ import annotations

import json
import random
import shutil
import sqlite3
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

from backup_pipeline.system.processes import run

# As the workshop's application makes it.
AUFTRAEGE_SCHEMA = """
create table auftraege (
    record_id integer primary key autoincrement,
    auftrag_nr text not null unique,
    kunde_name text,
    kunden_nr text,
    kennzeichen text,
    vin text,
    datum text,
    formular_version text,
    keywords_json text,
    file_path text not null,
    hash text,
    data_complete integer not null default 0,
    created_at text not null,
    updated_at text not null
);
create index auftraege_by_customer on auftraege (kunden_nr);
"""
_NAMES = ("Müller, Anna", 'Autohaus "Nord"', "Groß & Söhne", "Öztürk", "O'Brien", "Łukasz Żak", "Schmidt 🚗", "")


def write_buckets(root: Path) -> None:
    """Write the buckets `materials` (texts) and `submissions` (binary files) below `root`."""
    chance = random.Random(7)  # noqa: S311 - content, not secrets
    side = root.with_name(f"{root.name}.building")
    shutil.rmtree(side, ignore_errors=True)
    for number in range(1, 61):
        place = side / "materials" / f"course-{number % 10}" / f"sheet-{number}.txt"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(f"Sheet {number}\n" * (20 + number), "utf-8")
    for number in range(1, 41):
        place = side / "submissions" / f"person-{number % 8}" / f"Abgabe {number} ü.bin"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(chance.randbytes(1000 * (1 + number % 20)))
    side.rename(root)


def small_pdf(title: str) -> bytes:
    """Return a one-page PDF 1.4 that shows `title` (ISO 32000-1, 7.5: header, objects, cross-reference, trailer)."""
    shown = title.encode("cp1252", "replace").replace(b"\\", b"\\\\").replace(b"(", b"\\(").replace(b")", b"\\)")
    text = b"BT /F1 24 Tf 60 760 Td (" + shown + b") Tj ET"
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] /Contents 4 0 R "
        b"/Resources << /Font << /F1 5 0 R >> >> >>",
        b"<< /Length " + str(len(text)).encode() + b" >>\nstream\n" + text + b"\nendstream",
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding >>",
    ]
    out = bytearray(b"%PDF-1.4\n")
    offsets = []
    for number, body in enumerate(objects, 1):
        offsets.append(len(out))
        out += str(number).encode() + b" 0 obj\n" + body + b"\nendobj\n"
    start = len(out)
    out += b"xref\n0 6\n0000000000 65535 f \n" + b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    out += b"trailer\n<< /Size 6 /Root 1 0 R >>\nstartxref\n" + str(start).encode() + b"\n%%EOF\n"
    return bytes(out)


def write_workshop(database: Path, archive: Path, orders: int) -> None:
    """Write the workshop's SQLite database and a folder with a PDF for every order, over the years 2019 to 2026."""
    chance = random.Random(11)  # noqa: S311 - content, not secrets
    side = database.with_name(f"{database.name}.building")
    side.unlink(missing_ok=True)
    rows = []
    for number in range(1, orders + 1):
        day = date(2019, 1, 7) + timedelta(days=number * 2850 // orders)
        name = f"{76000 + number:06d}"
        folder = archive / str(day.year) / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}_Auftrag.pdf").write_bytes(small_pdf(f"Auftrag {name} vom {day:%d.%m.%Y}"))
        moment = datetime(day.year, day.month, day.day, 9, number % 60, tzinfo=UTC)
        rows.append(
            (
                name,
                chance.choice(_NAMES),
                f"K{chance.randrange(10_000):05d}" if number % 9 else None,
                f"B-{chance.choice('ABCDEFG')}{chance.choice('HJKLM')} {chance.randrange(1, 10_000)}",
                "".join(chance.choice("ABCDEFGHJKLMNPRSTUVWXYZ0123456789") for _ in range(17)),
                day.isoformat(),
                "2.1" if number % 3 else None,
                json.dumps({"Garantie": [number % 5 + 1]} if number % 4 == 0 else {}, ensure_ascii=False),
                f"{day.year}/{name}/{name}_Auftrag.pdf",
                f"{chance.getrandbits(256):064x}",
                int(number % 11 > 0),
                moment.isoformat(),
                (moment + timedelta(days=3)).isoformat(),
            )
        )
    connection = sqlite3.connect(side)
    try:
        connection.executescript(AUFTRAEGE_SCHEMA)
        connection.executemany(
            "insert into auftraege (auftrag_nr, kunde_name, kunden_nr, kennzeichen, vin, datum, formular_version, "
            "keywords_json, file_path, hash, data_complete, created_at, updated_at) "
            "values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            rows,
        )
        connection.commit()
    finally:
        connection.close()
    side.rename(database)


def write_repository(folder: Path) -> None:
    """Make a git repository with two branches, a tag, and a `.env` that git does not know."""
    side = folder.with_name(f"{folder.name}.building")
    shutil.rmtree(side, ignore_errors=True)
    side.mkdir(parents=True)
    identity = {
        "GIT_AUTHOR_NAME": "Claire",
        "GIT_AUTHOR_EMAIL": "claire@example.org",
        "GIT_COMMITTER_NAME": "Claire",
        "GIT_COMMITTER_EMAIL": "claire@example.org",
        "GIT_CONFIG_GLOBAL": "/dev/null",
        "GIT_CONFIG_NOSYSTEM": "1",
    }

    def git(*arguments: str) -> None:
        run(["git", *arguments], cwd=side, env=identity)

    git("init", "-q", "-b", "main")
    (side / ".gitignore").write_text(".env\n", "utf-8")
    (side / "README.md").write_text("# Claire\n\nA trading application.\n", "utf-8")
    (side / "strategy.py").write_text("def signal(price: float, mean: float) -> str:\n    return 'buy'\n", "utf-8")
    git("add", "-A")
    git("commit", "-qm", "A first strategy")
    (side / "strategy.py").write_text(
        "def signal(price: float, mean: float) -> str:\n    return 'buy' if price < mean else 'sell'\n", "utf-8"
    )
    git("commit", "-qam", "Sell above the mean")
    git("tag", "v1.0")
    git("checkout", "-q", "-b", "research")
    (side / "notes.md").write_text("Momentum next.\n", "utf-8")
    git("add", "-A")
    git("commit", "-qm", "Notes on momentum")
    git("checkout", "-q", "main")
    (side / ".env").write_text("# secrets stay out of git and, unless asked for, out of backups\n", "utf-8")
    side.rename(folder)
