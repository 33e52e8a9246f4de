"""age's format as it is written and read here, against pyrage and the program age."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from pathlib import Path

import pyrage
import pytest

from backup_pipeline.errors import ValidationError
from backup_pipeline.stores.vault.age_format import AgeIdentities, AgeRecipients, key_bytes
from backup_pipeline.stores.vault.encryption import Opener, OtherRecipientsError, Sealer, new_identity

_PIECE = 64 << 10
SIZES = (0, 1, _PIECE - 1, _PIECE, _PIECE + 1, 2 * _PIECE, 3 * _PIECE + 17, 1 << 20)


def _pair() -> tuple[str, str]:
    return new_identity()


def _reading(*secrets: str) -> AgeIdentities:
    return AgeIdentities([key_bytes(secret) for secret in secrets])


@pytest.mark.parametrize("size", SIZES)
def test_pyrage_reads_what_is_written_for_each_of_two_recipients(size: int) -> None:
    pairs = [_pair(), _pair()]
    data = random.Random(size).randbytes(size)
    written = bytes(AgeRecipients([key_bytes(public) for _, public in pairs]).encrypt(data))
    for secret, _ in pairs:
        assert pyrage.decrypt(written, [pyrage.x25519.Identity.from_str(secret)]) == data
        assert _reading(_pair()[0], secret).decrypt(written) == data


@pytest.mark.parametrize("size", SIZES)
def test_what_pyrage_has_written_is_read(size: int) -> None:
    secret, public = _pair()
    data = random.Random(size).randbytes(size)
    written = pyrage.encrypt(data, [pyrage.x25519.Recipient.from_str(public)])
    assert _reading(secret).decrypt(written) == data


@pytest.mark.skipif(not shutil.which("age"), reason="the program age is not installed")
def test_the_program_age_reads_what_is_written_and_is_read(tmp_path: Path) -> None:
    secret, public = _pair()
    identity, data = tmp_path / "identity.txt", os.urandom(200_000)
    identity.write_text(secret + "\n")
    written = Sealer([public]).seal(data)
    done = subprocess.run(["age", "-d", "-i", str(identity)], input=written, capture_output=True, check=True)
    assert done.stdout == data
    done = subprocess.run(["age", "-r", public], input=data, capture_output=True, check=True)
    assert _reading(secret).decrypt(done.stdout) == data


@pytest.mark.parametrize("size", [0, 1, _PIECE, 2 * _PIECE, 2 * _PIECE + 5])
def test_what_was_cut_short_prolonged_or_changed_anywhere_is_not_read(size: int) -> None:
    secret, public = _pair()
    written = Sealer([public]).seal(bytes(size))
    opener = Opener(secret)
    numbers = random.Random(size)
    cut = [written[:-count] for count in (1, 16, 17, len(written) // 2, len(written))]
    if size > _PIECE:
        cut.append(written[: len(written) - (size - _PIECE) % _PIECE - 16])
    changed = []
    for place in {*range(300), *(numbers.randrange(len(written)) for _ in range(100))} & set(range(len(written))):
        one = bytearray(written)
        one[place] ^= 1 << numbers.randrange(8)
        changed.append(one)
    for damaged in (*cut, written + b"\0", written + written, *changed):
        assert _reading(secret).decrypt(damaged) is None
        with pytest.raises((ValidationError, OtherRecipientsError)):
            opener.open(damaged, name="chunk")
    assert opener.open(written, name="chunk") == bytes(size)


def test_pieces_swapped_or_an_empty_last_piece_are_not_read() -> None:
    secret, public = _pair()
    written = bytes(Sealer([public]).seal(os.urandom(3 * _PIECE)))
    sealed = _PIECE + 16
    head = len(written) - 3 * sealed
    first, second, third = (written[head + number * sealed : head + (number + 1) * sealed] for number in range(3))
    for pieces in (second + first + third, first + second, first + third, first + second + third + third[-16:]):
        assert _reading(secret).decrypt(written[:head] + pieces) is None
    assert _reading(secret).decrypt(written[:head] + first + second + third) is not None


def test_another_identity_is_named_as_such() -> None:
    written = Sealer([_pair()[1]]).seal(b"data")
    with pytest.raises(OtherRecipientsError):
        Opener(_pair()[0]).open(written, name="chunk")


def test_a_file_for_other_kinds_of_recipients_too_is_read(tmp_path: Path) -> None:
    secret, public = _pair()
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / "key")], check=True)
    key = (tmp_path / "key.pub").read_text().strip()
    written = pyrage.encrypt(b"data", [pyrage.ssh.Recipient.from_str(key), pyrage.x25519.Recipient.from_str(public)])
    assert Opener(secret).open(written, name="chunk") == b"data"
