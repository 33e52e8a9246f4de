"""The rule 3-2-1-1-0: three copies, on two media, one off-site, one that cannot be deleted, no errors. Pure.

Counted are the data itself, the set in the plan's store, and each vault that holds the newest set or the one before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from backup_pipeline.rules.quantities import enumerated

WANTED_COPIES = 3
WANTED_MEDIA = 2


@dataclass(frozen=True, slots=True)
class Holding:
    """A place that holds the plan's newest set.

    Attributes:
        name: "the store", or the vault's.
        medium: what it is stored on; places with the same are lost together.
        off_site: whether it is in another building.
        undeletable: until when the storage forbids to delete the newest copy, as text; "" where it does not.
    """

    name: str
    medium: str
    off_site: bool = False
    undeletable: str = ""


@dataclass(frozen=True, slots=True)
class Condition:
    """One of the five: its number and name, whether it holds, why, and what to do where it does not."""

    rule: str
    holds: bool
    what: str
    remedy: str = ""


def three_two_one_one_zero(
    holdings: Sequence[Holding], *, proven: str, errors: Sequence[str], plan: str
) -> tuple[Condition, ...]:
    """Return the five answers for a plan.

    Args:
        holdings: where its newest set is: the store, and its vaults.
        proven: when and from where a set was last proven, as text; "" where none is.
        errors: what is known to be wrong with the sets or copies.
        plan: the plan's name, for remedies.
    """
    names = ["the data itself", *(one.name for one in holdings)]
    media = list(dict.fromkeys(one.medium for one in holdings))
    away = [one.name for one in holdings if one.off_site]
    locked = [f"{one.name} ({one.undeletable})" for one in holdings if one.undeletable]
    more = f"Give plan {plan} a vault more: copies: [{{to: NAME}}] (docs/vaults.md)."
    drill = f"`backup-pipeline drill {plan}/latest` proves the newest."
    zero = "; ".join(errors[:3]) if errors else f"proven {proven}" if proven else "no set is proven"
    return (
        Condition("3 copies", len(names) >= WANTED_COPIES, enumerated(names), more),
        Condition(
            "2 media",
            len(media) >= WANTED_MEDIA,
            f"{len(media)} that fail apart" if media[1:] else "all on one disk or service" if media else "no set yet",
            "A vault on another disk or service than the store makes two.",
        ),
        Condition(
            "1 off-site",
            bool(away),
            enumerated(away) if away else "nothing outside of this building",
            "A vault elsewhere: object storage, SFTP, a disk that is carried away (`off_site: true`).",
        ),
        Condition(
            "1 immutable",
            bool(locked),
            enumerated(locked) if locked else "whoever has this machine's credentials can delete every copy",
            "A bucket with Object Lock and `lock_days` in the vault's settings.",
        ),
        Condition("0 errors", bool(proven) and not errors, zero, drill),
    )
