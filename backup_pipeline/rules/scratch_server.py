"""What a database needs of the server that it is restored into, and which server has it. Pure.

What a server lacks says nothing against a backup: each thing is named with every way to get it.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from backup_pipeline.model.catalog import Catalog
from backup_pipeline.model.proof import Finding
from backup_pipeline.model.server_offer import Offer, one_spelling

DRILL_VARIABLE = "DRILL_DATABASE_URL"
XML, ICU, LZ4 = "xml", "icu", "lz4"
FEATURES = (XML, ICU, LZ4)
_DESCRIPTIONS = {
    XML: "XML (columns of type xml, xpath); PostgreSQL built with libxml",
    ICU: "ICU collations; PostgreSQL built with ICU",
    LZ4: "compression with lz4; PostgreSQL built with lz4",
}
# Requirements in a recorded catalog: a feature, or a feature with an object that uses it without holding rows of it.
USED_BY = " used by "
LOCALE = "locale "
SUPERUSER = "superuser"
# Debian's package of an extension that is not among those that come with the server.
_PACKAGES = {
    "postgis": "postgresql-{}-postgis-3",
    "postgis_raster": "postgresql-{}-postgis-3",
    "postgis_topology": "postgresql-{}-postgis-3",
    "postgis_tiger_geocoder": "postgresql-{}-postgis-3",
    "address_standardizer": "postgresql-{}-postgis-3",
    "postgis_sfcgal": "postgresql-{}-postgis-3",
    "vector": "postgresql-{}-pgvector",
    "pg_cron": "postgresql-{}-cron",
    "pgrouting": "postgresql-{}-pgrouting",
    "timescaledb": "timescaledb-2-postgresql-{} (from timescale's own repository)",
    "pg_partman": "postgresql-{}-partman",
    "hll": "postgresql-{}-hll",
    "rum": "postgresql-{}-rum",
    "plpython3u": "postgresql-plpython3-{}",
    "plperl": "postgresql-plperl-{}",
    "plperlu": "postgresql-plperl-{}",
    "pltcl": "postgresql-pltcl-{}",
    "pltclu": "postgresql-pltcl-{}",
    "age": "postgresql-{}-age",
    "ip4r": "postgresql-{}-ip4r",
    "pg_repack": "postgresql-{}-repack",
    "pgaudit": "postgresql-{}-pgaudit",
    "pgtap": "postgresql-{}-pgtap",
    "semver": "postgresql-{}-semver",
    "unit": "postgresql-{}-unit",
    "prefix": "postgresql-{}-prefix",
    "periods": "postgresql-{}-periods",
    "pg_similarity": "postgresql-{}-similarity",
}
_PRELOADED = ("timescaledb", "citus")
_SUPABASE = frozenset(
    {
        "pgjwt",
        "pg_graphql",
        "supabase_vault",
        "pgsodium",
        "pg_net",
        "wrappers",
        "pg_jsonschema",
        "pg_hashids",
        "http",
        "index_advisor",
        "pgmq",
        "pg_tle",
        "plv8",
    }
)
_SUPABASE_REMEDY = (
    "Run a scratch server that has Supabase's extensions, such as a compose service `drill` with the image "
    "supabase/postgres, and name it in DRILL_DATABASE_URL."
)


@dataclass(frozen=True, slots=True)
class Needs:
    """What a database needs.

    Attributes:
        written_by: major of the pg_dump that wrote it; an older server does not take it.
        source_major: the server that it came from; the same one writes queries alike.
        extensions: name → version.
        features: of FEATURES.
        unexercised: "xml used by view app.v": where only a use, and no row, needs the feature.
        locales: of the operating system, by which collations sort.
        superusers: objects that only a superuser may make, which no drill is.
    """

    written_by: int = 0
    source_major: int = 0
    extensions: Mapping[str, str] = field(default_factory=dict)
    features: frozenset[str] = frozenset()
    unexercised: tuple[str, ...] = ()
    locales: frozenset[str] = frozenset()
    superusers: tuple[str, ...] = ()


def needs_of(catalog: Catalog | None, extensions: Mapping[str, str], written_by: int) -> Needs:
    """Return what a recorded database needs; of older sets, which recorded no requirements, their columns show it."""
    names = {_bare(name): version for name, version in extensions.items()}
    if catalog is None:
        return Needs(written_by, extensions=names)
    recorded = catalog.requirements or _from_texts(catalog)
    return Needs(
        written_by=written_by,
        source_major=catalog.server_major,
        extensions=names,
        features=frozenset(need for need in recorded if need in FEATURES),
        unexercised=tuple(need for need in recorded if USED_BY in need and not need.startswith(SUPERUSER)),
        locales=frozenset(need.removeprefix(LOCALE) for need in recorded if need.startswith(LOCALE)),
        superusers=tuple(n.removeprefix(SUPERUSER + USED_BY) for n in recorded if n.startswith(SUPERUSER + USED_BY)),
    )


def _from_texts(catalog: Catalog) -> tuple[str, ...]:
    columns = [
        text for kind in ("column", "composite type", "domain") for text in catalog.objects.get(kind, {}).values()
    ]
    found = []
    if any(re.search(r"(?:\A|[\s,])xml(?:\[\])*(?:,|\Z)", text) for text in columns):
        found.append(XML)
    if any("-x-icu" in text for kind in ("column", "index") for text in catalog.objects.get(kind, {}).values()):
        found.append(ICU)
    return tuple(found)


def _bare(name: str) -> str:
    return name[1:-1].replace('""', '"') if name.startswith('"') else name


def preload(needs: Needs) -> dict[str, str]:
    """Return the server's settings without which some extensions cannot be made."""
    names = [name for name in _PRELOADED if name in needs.extensions]
    return {"shared_preload_libraries": ",".join(names)} if names else {}


def choose(offers: Sequence[Offer], needs: Needs, without: Collection[str]) -> Offer | None:
    """Return the first installed server that has everything, else the first embedded one; None when no one has.

    Among those that have everything, one whose files have the recorded versions of the extensions goes first.

    Args:
        offers: installed ones first, lowest major first (see `postgres.server.installations`).
        needs: the database's.
        without: extensions that a copy does without.
    """
    fitting = [offer for offer in offers if not lacking(needs, offer, without)]
    return min(fitting, key=lambda offer: len(other_versions(needs, offer)), default=None)


def other_versions(needs: Needs, offer: Offer) -> list[str]:
    """Return the extensions that a server has in other versions only, as far as its files say it."""
    return [
        name
        for name, version in needs.extensions.items()
        if version and (known := offer.extensions.get(name)) and version not in known
    ]


def closest(offers: Sequence[Offer], needs: Needs, without: Collection[str]) -> Offer | None:
    """Return the server that lacks least."""
    return min(offers, key=lambda offer: len(lacking(needs, offer, without)), default=None)


def lacking(needs: Needs, offer: Offer, without: Collection[str]) -> list[Finding]:
    """Return what an installed server lacks of what a database needs, each with the ways to get it."""
    name = f"the {'embedded' if offer.embedded else 'installed'} PostgreSQL {offer.major}"
    if offer.major < needs.written_by:
        return [too_old(name, needs.written_by)]
    return missing_from(needs, name, offer.extensions, offer.features, without, offer.locales)


def missing_from(
    needs: Needs,
    server: str,
    extensions: Collection[str],
    features: Collection[str],
    without: Collection[str],
    locales: Collection[str] = (),
) -> list[Finding]:
    """Return what a server has not got: extensions (but those `without`), features, locales (where they are known).

    What needs a superuser is missing on every server, for no drill loads as one.
    """
    major = max(needs.written_by, needs.source_major)
    found = [
        no_extension(name, server, major)
        for name in sorted(needs.extensions)
        if name not in extensions and name not in without
    ]
    found += [no_feature(name, server, major) for name in FEATURES if name in needs.features - {*features}]
    if locales:
        found += [no_locale(name, server) for name in sorted(needs.locales) if one_spelling(name) not in locales]
    if needs.superusers:
        first, more = needs.superusers[0], len(needs.superusers) - 1
        also = f" and {more} more are" if more else " is"
        found.append(no_superuser(f"{first}{also} in C or in a language that only superusers may use"))
    return found


def too_old(server: str, written_by: int) -> Finding:
    """Return what to say of a server that is older than the dump's pg_dump."""
    return Finding(
        subject=f"PostgreSQL {written_by}",
        problem=f"the dump was written by pg_dump {written_by}, which {server} cannot take",
        remedy=f"Install it (Debian and PGDG: apt-get install postgresql-{written_by}), or name a server of version "
        f"{written_by} or newer in {DRILL_VARIABLE}.",
    )


def no_extension(name: str, server: str, major: int) -> Finding:
    """Return what to say of an extension that a server has not got."""
    package = _PACKAGES.get(name, "postgresql-{}").format(major or "NN")
    remedy = (
        _SUPABASE_REMEDY
        if name in _SUPABASE
        else f"Install it here (Debian and PGDG: apt-get install {package}; elsewhere the package with PostgreSQL's "
        f"contrib or the extension's own), name the folder of its programs in BACKUP_PIPELINE_PG_BIN, or name a server "
        f"that has it in {DRILL_VARIABLE}."
    )
    return Finding(subject=f"extension {name}", problem=f"is not available on {server}", remedy=remedy)


def no_feature(name: str, server: str, major: int) -> Finding:
    """Return what to say of a feature that a server was built without."""
    return Finding(
        subject=name,
        problem=f"{server} was built without it: {_DESCRIPTIONS[name]}",
        remedy=f"Install a server that has it (Debian and PGDG: apt-get install postgresql-{major or 'NN'}), or name "
        f"one in {DRILL_VARIABLE}.",
    )


def no_locale(name: str, server: str) -> Finding:
    """Return what to say of a locale that the operating system of a server has not got."""
    return Finding(
        subject=f"locale {name}",
        problem=f"a collation sorts by it, and the system of {server} has not got it",
        remedy=f"Install it (Debian: uncomment it in /etc/locale.gen and run locale-gen), or name a server that has it "
        f"in {DRILL_VARIABLE}.",
    )


def no_superuser(why: str) -> Finding:
    """Return what to say of something that only a superuser may make."""
    return Finding(
        subject="superuser rights",
        problem=f"a drill loads without them, so that no dump can harm the server, and this needs them: {why}",
        remedy="Prove this set by a restore into a new database (backup-pipeline restore … --into) on a server "
        "that holds nothing else.",
    )


def unexercised(needs: Needs, features: Collection[str]) -> list[Finding]:
    """Return what was restored and compared but could not have worked here: a use without a row is never executed."""
    found = []
    for need in needs.unexercised:
        feature, _, user = need.partition(USED_BY)
        if feature not in features:
            found.append(
                Finding(
                    subject=user,
                    problem=f"was restored and compared, but not executed: the scratch server has no {feature}",
                    remedy=no_feature(feature, "", needs.source_major).remedy if feature in FEATURES else "",
                )
            )
    return found


# What a refusal says of the server, not of the dump: a pattern of the message, the subject, and the way out.
_REFUSALS: tuple[tuple[str, str, str], ...] = (
    (r"unsupported XML feature|XML.*not supported", XML, ""),
    (r"ICU is not supported", ICU, ""),
    (r"compression method lz4 not supported|lz4.*not supported", LZ4, ""),
    (
        r"could not create locale|locale \S* ?does not exist|invalid locale name|could not find.*locale",
        "locale",
        "Install the locale on the scratch server (Debian: dpkg-reconfigure locales), or name another server in "
        f"{DRILL_VARIABLE}.",
    ),
    (
        r"collation .* for encoding .* does not exist|collation .* does not exist",
        "collation",
        f"Install the locale or a PostgreSQL with ICU, or name a server that has this collation in {DRILL_VARIABLE}.",
    ),
    (
        r"extension .* is not available|could not open extension control file",
        "extension",
        f"Install it on the scratch server, or name a server that has it in {DRILL_VARIABLE}.",
    ),
    (
        r"could not access file|could not load library|could not find function .* in file",
        "library",
        f"Install what brings it on the scratch server, or name a server that has it in {DRILL_VARIABLE}.",
    ),
    (
        r"must be loaded via|must be preloaded|shared_preload_libraries",
        "shared_preload_libraries",
        f"Name a server in {DRILL_VARIABLE} that loads the extension at its start.",
    ),
    (
        r"could not open (dictionary|stop-word|thesaurus|synonym|affix|configuration) file"
        r"|could not open .*tsearch_data",
        "text search file",
        f"Install the dictionary's files, or name a server that has them in {DRILL_VARIABLE}.",
    ),
    (r"tablespace .* does not exist", "tablespace", f"Name a server in {DRILL_VARIABLE} that has the tablespace."),
)
_STATE = re.compile(r"\(SQLSTATE (\w{5})\)")
NO_RIGHT = "42501"
# Function, table, type, schema, column or feature: not there.
_NOT_THERE = frozenset({"42883", "42P01", "42704", "3F000", "42703", "0A000"})


def cause_of_refusal(reported: str, server: str, needs: Needs, *, restricted: bool) -> Finding | None:
    """Return what a restore's error says of the scratch server; None when it is the dump's own fault.

    Args:
        reported: the error, with its SQLSTATE as formatted by `load.session`.
        server: the server's name, for the message.
        needs: the database's.
        restricted: whether the copy was loaded by a role without superuser rights.
    """
    major = max(needs.written_by, needs.source_major)
    for pattern, subject, remedy in _REFUSALS:
        if re.search(pattern, reported, re.IGNORECASE):
            if subject in FEATURES:
                found = no_feature(subject, server, major)
                return found.model_copy(update={"problem": f"{found.problem} ({reported})"})
            return Finding(subject=subject, problem=f"is missing on {server}: {reported}", remedy=remedy)
    state = _STATE.search(reported)
    if state and state[1] == NO_RIGHT and restricted:
        return no_superuser(reported)
    return None


def cause_in_versions(
    reported: str, server: str, needs: Needs, available: Mapping[str, Collection[str]]
) -> Finding | None:
    """Return what a refusal may say of the scratch server's versions of extensions; None when it says nothing of them.

    Args:
        reported: the error, with its SQLSTATE as formatted by `load.session`.
        server: the server's name, for the message.
        needs: the database's, with the versions that were recorded where the dump was made.
        available: the versions that the server has of each extension.
    """
    state = _STATE.search(reported)
    if state is None or state[1] not in _NOT_THERE:
        return None
    others = [
        f"{name} {version} (here {', '.join(sorted(available[name])) or 'none'})"
        for name, version in sorted(needs.extensions.items())
        if version and name in available and version not in available[name]
    ]
    if not others:
        return None
    return Finding(
        subject=f"extensions {', '.join(others)}",
        problem=f"{server} has other versions than the backup's server, and refused a statement: {reported}",
        remedy=f"Install these versions on the scratch server, or name a server that has them in {DRILL_VARIABLE}.",
    )
