"""Names of objects in a vault, and the marks that stand for names that must not be readable."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets

from backup_pipeline.model.set_id import SetId
from backup_pipeline.stores.objects.contract import DataView

DESCRIPTION = "vault.json"
RECOVERY_TEXT = "RECOVERY.md"
RECOVERY_PROGRAM = "recover.py"
CHUNKS = "chunks/"
COPIES = "copies/"
MARKS = "marks/"
LEASES = "leases/"
PENDING = "pending/"
PROOFS = "proofs/"
_CHUNK = re.compile(r"[0-9a-f]{64}(\.[0-9a-f]{8})?")
_COPY = re.compile(r"\d{4}-\d{2}-\d{2}T\d{6}Z-[0-9a-f]{32}")
_PROOF = re.compile(r"[^/]+/\d{4}-\d{2}-\d{2}T\d{6}Z-[0-9a-f]{8}")
_PLAN_DIGITS = 8
_SET_DIGITS = 24


def keyed(key: bytes, data: DataView) -> str:
    """Return HMAC-SHA256 in hex; it lets go of the interpreter's lock while it hashes."""
    return hmac.new(key, data, hashlib.sha256).hexdigest()


def chunk_object(name: str) -> str:
    """Return where a chunk is kept: `chunks/ab/<name>`."""
    return f"{CHUNKS}{name[:2]}/{name}"


def chunk_id(name: str) -> str:
    """Return the id of the plain bytes that a chunk of this name holds."""
    return name.partition(".")[0]


def another_name(name: str) -> str:
    """Return a new name for the same plain bytes: no object is ever written over."""
    return f"{chunk_id(name)}.{secrets.token_hex(4)}"


def is_chunk_name(text: str) -> bool:
    """Return whether `text` has the form of a chunk's name."""
    return _CHUNK.fullmatch(text) is not None


def is_copy_name(text: str) -> bool:
    """Return whether `text` has the form of a copy's name."""
    return _COPY.fullmatch(text) is not None


def is_proof_name(text: str) -> bool:
    """Return whether `text` has the form of a proof's name: its copy's, then when it was finished."""
    return _PROOF.fullmatch(text) is not None


def plan_tag(key: bytes, plan: str) -> str:
    """Return what stands for a plan in the names of its copies."""
    return keyed(key, b"plan\0" + plan.encode())[:_PLAN_DIGITS]


def copy_name(key: bytes, plan: str, set_id: SetId) -> str:
    """Return the name of a set's copy: the set's time, and what stands for plan and set."""
    whole = keyed(key, b"copy\0" + plan.encode() + b"\0" + set_id.encode())
    return f"{set_id}-{plan_tag(key, plan)}{whole[:_SET_DIGITS]}"


def tag_of(name: str) -> str:
    """Return the part of a copy's name that its plan's copies share."""
    return name.rpartition("-")[2][:_PLAN_DIGITS]
