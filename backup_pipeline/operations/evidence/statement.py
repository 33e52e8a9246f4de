"""Evidence statements: in-toto Statement v1 in a DSSE envelope signed with Ed25519, each chained to the one before.

Formats: https://github.com/in-toto/attestation/blob/main/spec/v1/statement.md and
https://github.com/secure-systems-lab/dsse/blob/master/protocol.md. `check_evidence.py` checks them with Python alone.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError as PydanticError

from backup_pipeline.errors import StoreError
from backup_pipeline.model.evidence import Event, EventKind, Evidence
from backup_pipeline.stores.vault.signing import Signer, are_signed_bytes
from backup_pipeline.system.files import read_ordinary

STATEMENT = "https://in-toto.io/Statement/v1"
PREDICATE = "urn:backup-pipeline:evidence:v1"
PAYLOAD = "application/vnd.in-toto+json"
ENDING = ".dsse.json"
_LARGEST = 256 << 20


def pre_authentication(payload: bytes) -> bytes:
    """Return what is signed of a payload (DSSE's PAE)."""
    kind = PAYLOAD.encode()
    return b" ".join((b"DSSEv1", b"%d" % len(kind), kind, b"%d" % len(payload), payload))


def envelope(evidence: Evidence, signer: Signer) -> bytes:
    """Return the signed file of some evidence."""
    payload = json.dumps(statement(evidence), sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    signature = {"keyid": signer.public, "sig": signer.sign_bytes(pre_authentication(payload))}
    document = {"payloadType": PAYLOAD, "payload": base64.b64encode(payload).decode(), "signatures": [signature]}
    return json.dumps(document, indent=1).encode() + b"\n"


def is_signed_with(keys: Collection[str], data: bytes) -> bool:
    """Return whether one of these public keys has signed a file of evidence; False for one that is malformed."""
    try:
        document = json.loads(data)
        message = pre_authentication(base64.b64decode(document["payload"], validate=True))
        signatures = [str(each["sig"]) for each in document["signatures"]]
    except (RecursionError, ValueError, KeyError, TypeError, binascii.Error):
        return False
    return document.get("payloadType") == PAYLOAD and any(
        are_signed_bytes(key, message, each) for key in keys for each in signatures
    )


def statement(evidence: Evidence) -> dict[str, Any]:
    """Return the in-toto statement: its subjects are the manifests of the sets that the events are about."""
    policy = json.dumps(evidence.policy, sort_keys=True).encode()
    return {
        "_type": STATEMENT,
        "subject": [
            # A statement has a subject also where there was no set at all.
            {"name": f"policy of {evidence.plan}", "digest": {"sha256": hashlib.sha256(policy).hexdigest()}},
            *_manifests(evidence.plan, evidence.events),
        ],
        "predicateType": PREDICATE,
        "predicate": evidence.model_dump(mode="json"),
    }


def _manifests(plan: str, events: Sequence[Event]) -> list[dict[str, Any]]:
    found = {
        (one.subject, one.sha256): {"name": f"{plan}/{one.subject}/manifest.json", "digest": {"sha256": one.sha256}}
        for one in events
        if one.sha256 and one.kind in (EventKind.BACKUP, EventKind.VERIFICATION, EventKind.DRILL)
    }
    return [found[key] for key in sorted(found)]


def read_envelope(file: Path) -> Evidence:
    """Return the evidence that a file holds; its signature is not checked here.

    Raises:
        StoreError: it cannot be read, or a link, a pipe or something else that is no evidence stands in its place.
    """
    return signed_evidence(file)[1]


def signed_evidence(file: Path) -> tuple[bytes, Evidence]:
    """Return a signed file as it is, and what it holds; otherwise as `read_envelope`."""
    try:
        data = read_ordinary(file, at_most=_LARGEST)
        document = json.loads(data)
        payload = json.loads(base64.b64decode(document["payload"], validate=True))
        return data, Evidence.model_validate(payload["predicate"])
    except (OSError, RecursionError, ValueError, KeyError, TypeError, binascii.Error, PydanticError) as error:
        raise StoreError(
            f"This evidence cannot be read ({type(error).__name__}).",
            where=str(file),
            remedy="Put the file back from a backup of the store: the chain of evidence goes through it.",
        ) from error
