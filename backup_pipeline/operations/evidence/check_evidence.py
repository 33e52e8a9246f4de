#!/usr/bin/env python3
"""Check of evidence files: signatures, chain, gaps in the numbers. Python's standard library alone; needs nothing else.

    python3 check_evidence.py --key ed25519:... [--key ed25519:...] FILE-OR-FOLDER ...

Give the public key as you received it from a person whom you trust (`backup-pipeline evidence key` prints it), not from
the files; several where the site's machine was replaced: the output says which one signed each file. Ends with 0 when
everything is valid, 1 when something is not, 2 when it cannot be judged.

Ed25519 verification as in RFC 8032, 5.1.7; DSSE envelopes and in-toto statements as their specifications say.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import pathlib
import stat
import sys
from typing import Any

Point = tuple[int, int, int, int]
P = 2**255 - 19
L = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, P - 2, P) % P
ROOT = pow(2, (P - 1) // 4, P)
PAYLOAD = "application/vnd.in-toto+json"
PREDICATE = "urn:backup-pipeline:evidence:v1"


def recover_x(y: int, sign: int) -> int | None:
    """Return the x of a point with this y, None where there is none."""
    if y >= P:
        return None
    square = (y * y - 1) * pow(D * y * y + 1, P - 2, P) % P
    if square == 0:
        return None if sign else 0
    x = pow(square, (P + 3) // 8, P)
    if (x * x - square) % P:
        x = x * ROOT % P
    if (x * x - square) % P:
        return None
    return P - x if (x & 1) != sign else x


def point(data: bytes) -> Point | None:
    """Return the point that 32 bytes encode, in extended coordinates; None where they encode none."""
    number = int.from_bytes(data, "little")
    y, sign = number & ((1 << 255) - 1), number >> 255
    x = recover_x(y, sign)
    return None if x is None else (x, y, 1, x * y % P)


def add(one: Point, other: Point) -> Point:
    """Return the sum of two points."""
    a = (one[1] - one[0]) * (other[1] - other[0]) % P
    b = (one[1] + one[0]) * (other[1] + other[0]) % P
    c = 2 * one[3] * other[3] * D % P
    d = 2 * one[2] * other[2] % P
    e, f, g, h = b - a, d - c, d + c, b + a
    return (e * f % P, g * h % P, f * g % P, e * h % P)


def times(number: int, one: Point) -> Point:
    """Return a multiple of a point."""
    total = (0, 1, 1, 0)
    while number:
        if number & 1:
            total = add(total, one)
        one = add(one, one)
        number >>= 1
    return total


BASE_Y = 4 * pow(5, P - 2, P) % P
BASE_X = recover_x(BASE_Y, 0) or 0
BASE = (BASE_X, BASE_Y, 1, BASE_X * BASE_Y % P)


def is_signed(public: bytes, message: bytes, signature: bytes) -> bool:
    """Return whether an Ed25519 signature (64 bytes) is that key's (32 bytes) over the message."""
    if len(public) != 32 or len(signature) != 64:
        return False
    key, r = point(public), point(signature[:32])
    s = int.from_bytes(signature[32:], "little")
    if key is None or r is None or s >= L:
        return False
    digest = hashlib.sha512(signature[:32] + public + message).digest()
    k = int.from_bytes(digest, "little") % L
    left, right = times(s, BASE), add(r, times(k, key))
    same_x = (left[0] * right[2] - right[0] * left[2]) % P == 0
    return same_x and (left[1] * right[2] - right[1] * left[2]) % P == 0


def key_bytes(text: str) -> bytes:
    """Return the 32 bytes of a public key written `ed25519:<base64>`."""
    data = base64.b64decode(text.partition("ed25519:")[2], validate=True)
    if len(data) != 32:
        raise ValueError("not a public key of the form ed25519:<base64 of 32 bytes>")
    return data


class DoubtError(Exception):
    """Why a file does not count."""


Read = tuple[dict[str, Any], str, int]
"""What a signed file says, the file's SHA-256, and the place of the key that signed it among those given, from 1."""


def read(path: pathlib.Path, keys: list[bytes]) -> Read:
    """Return what a signed file says; nothing that is unsigned is believed or repeated."""
    if not stat.S_ISREG(path.lstat().st_mode):
        raise DoubtError("no ordinary file")
    data = path.read_bytes()
    try:
        document = json.loads(data)
        payload = base64.b64decode(document["payload"], validate=True)
        kind = str(document["payloadType"])
        signatures = [base64.b64decode(each["sig"], validate=True) for each in document["signatures"]]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise DoubtError("not an envelope of evidence, or damaged") from None
    message = f"DSSEv1 {len(kind.encode())} {kind} {len(payload)} ".encode() + payload
    places = (number for number, key in enumerate(keys, 1) if any(is_signed(key, message, each) for each in signatures))
    if not (place := next(places, 0)):
        raise DoubtError(f"it is not signed with {'a' if len(keys) > 1 else 'the'} key given, or was changed")
    statement = json.loads(payload)
    if kind != PAYLOAD or statement["predicateType"] != PREDICATE:
        raise DoubtError("it holds another kind of statement")
    return statement["predicate"], hashlib.sha256(data).hexdigest(), place


Chain = dict[int, list[tuple[pathlib.Path, Read]]]


def check(paths: list[pathlib.Path], keys: list[bytes]) -> tuple[list[str], bool]:
    """Return the lines to print and whether all is well."""
    lines: list[str] = []
    well = True
    chains: dict[tuple[str, str], Chain] = {}
    for path in paths:
        try:
            found = read(path, keys)
        except (OSError, DoubtError) as error:
            lines.append(f"{path.name!r}: does not count: {error if isinstance(error, DoubtError) else error.strerror}")
            well = False
            continue
        evidence = found[0]
        chain = chains.setdefault((str(evidence["site"]), str(evidence["plan"])), {})
        chain.setdefault(int(evidence["number"]), []).append((path, found))
    for (site, plan), chain in sorted(chains.items()):
        more, good = check_chain(f"{site}/{plan}", chain, several_keys=len(keys) > 1)
        lines, well = lines + more, well and good
    return lines, well


def check_chain(name: str, chain: Chain, *, several_keys: bool) -> tuple[list[str], bool]:
    """Return the lines of one plan's evidence and whether it is whole, in order and signed."""
    lines: list[str] = []
    well, before, last = True, "", 0
    for number in sorted(chain):
        if number != last + 1:
            lines.append(
                f"{name}: number {last + 1}{f' to {number - 1}' if number - 1 > last + 1 else ''} is missing here"
            )
            well, before = False, ""
        if len(chain[number]) > 1:
            lines.append(f"{name}: number {number} is there {len(chain[number])} times")
            well = False
        path, (evidence, digest, key) = chain[number][0]
        wrong = []
        previous = str((evidence.get("previous") or {}).get("sha256", ""))
        if number == 1 and previous:
            wrong.append("it is the first and names one before it")
        if before and previous != before:
            wrong.append("the one before it is not the one that it was chained to")
        with_key = f" with key {key}" if several_keys else ""
        lines.append(f"{path.name}: {summary(evidence)}: {'; '.join(wrong) or f'valid{with_key}'}")
        well, before, last = well and not wrong, digest, number
    # What was cut off at the end leaves no trace in what is left: only who was handed more can know.
    lines.append(f"{name}: ends with number {last}, SHA-256 {before}: compare with the last that you were handed")
    return lines, well


def summary(evidence: dict[str, Any]) -> str:
    """Return what some evidence says, in one line."""
    events = evidence["events"]
    good = sum(bool(each["good"]) for each in events if each["kind"] == "backup")
    proven = sum(bool(each["good"]) for each in events if each["kind"] == "drill")
    return (
        f"{evidence['plan']} {evidence['begin'][:10]} to {evidence['end'][:10]}, {count(len(events), 'event')}, "
        f"{count(good, 'good backup')}, {count(proven, 'drill')} passed, {count(len(evidence['gaps']), 'gap')}"
    )


def count(number: int, noun: str) -> str:
    """Return a number with its noun."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def main() -> int:
    """Check the files named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--key", action="append", required=True, help="public key, ed25519:<base64>; may be repeated")
    parser.add_argument("paths", nargs="+", type=pathlib.Path, help="evidence files, or folders of them")
    asked = parser.parse_args()
    try:
        keys = [key_bytes(each) for each in asked.key]
    except ValueError as error:
        sys.stderr.write(f"--key: {error}\n")
        return 2
    files = [each for path in asked.paths for each in (sorted(path.glob("*.dsse.json")) if path.is_dir() else [path])]
    if not files:
        sys.stderr.write("no evidence file (*.dsse.json) there\n")
        return 2
    lines, well = check(files, keys)
    sys.stdout.write("".join(line + "\n" for line in lines))
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())
