"""Queries of the system catalog for rarer objects and finer properties than `catalog.queries`.

Sets of before these were asked did not record such kinds: see `model.catalog.LATER_KINDS`. Only SQL here; each answer
is (identity, definition).
"""
# ruff: noqa: S608 — the texts are put together from constants of this module only.

from __future__ import annotations

from backup_pipeline.model.catalog import ATTACHED, COLUMN_OPTIONS
from backup_pipeline.postgres.catalog.queries import sorted_options

_USER = "n.nspname !~ '^pg_' and n.nspname <> 'information_schema'"
_FIRST_OF_THE_SITE = 16384


def _options(column: str) -> str:
    """An SQL expression: `name=value` without the order in which they were given, which means nothing."""
    return f"""(select string_agg(o, ' ' order by o collate "C") from unnest({column}) o)"""


# PostgreSQL 15.20 marks columns with an option of its own, `pg_attver=<number>`, which other releases do not know and
# pg_dump does not write. Options that a user can set never begin with "pg_" (n_distinct, n_distinct_inherited).
def _column_options(column: str) -> str:
    """An SQL expression: a column's options as `_options` writes them, without the server's own marks."""
    return f"""(select string_agg(o, ' ' order by o collate "C") from unnest({column}) o where o !~ '^pg_')"""


def _own(catalog: str, column: str) -> str:
    """A condition: the object is no part of the server or of an extension."""
    return (
        f"{column} >= {_FIRST_OF_THE_SITE} and not exists (select from pg_depend d where d.deptype = 'e'"
        f" and d.classid = '{catalog}'::regclass and d.objid = {column})"
    )


def _named(catalog: str, definition: str, more: str = "") -> str:
    """Identity as the server writes it, and this definition, of the site's own rows `o` of a catalog."""
    return f"""
select concat_ws(' ', i.type, i.identity), concat_ws(', ', {definition})
  from {catalog} o join lateral pg_identify_object('{catalog}'::regclass, o.oid, 0) i on true
 where {_own(catalog, "o.oid")}{more}"""


# Their values are passwords: only the names are compared.
USER_MAPPINGS = """
select format('user mapping %I on %I', m.usename, m.srvname),
       (select string_agg(split_part(x, '=', 1), ',' order by x collate "C") from unnest(m.umoptions) x)
  from pg_user_mappings m"""

# What the dump says of an object beyond what `catalog.queries` asks. Only columns that versions 13 to 18 have, or that
# are asked for by way of JSON, where a column that is not there is null.
_COLUMN_OPTIONS = f"""
select format('%I.%I.%I', n.nspname, c.relname, a.attname),
       concat_ws(', ', case when a.attstattarget >= 0 then 'statistics ' || a.attstattarget::text end,
                 {_column_options("a.attoptions")}, nullif(to_jsonb(a) ->> 'attcompression', ''),
                 {_options("a.attfdwoptions")})
  from pg_class c join pg_namespace n on n.oid = c.relnamespace
  join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
 where {_USER} and c.relpersistence <> 't' and c.relkind in ('r', 'p', 'f', 'm', 'i', 'I')
   and {_own("pg_class", "c.oid")}
   and (a.attstattarget >= 0 or {_column_options("a.attoptions")} is not null or a.attfdwoptions is not null
        or coalesce(to_jsonb(a) ->> 'attcompression', '') <> '')"""

_DEFINITIONS = (
    f"""
select format('table %I.%I', n.nspname, c.relname),
       concat_ws(', ', {_options("t.reloptions")}, nullif(m.amname, 'heap'), s.srvname,
                 {_options("f.ftoptions")},
                 case when c.relkind = 'm' then {_options("c.reloptions")} end)
  from pg_class c join pg_namespace n on n.oid = c.relnamespace
  left join pg_class t on t.oid = c.reltoastrelid left join pg_am m on m.oid = c.relam
  left join pg_foreign_table f on f.ftrelid = c.oid left join pg_foreign_server s on s.oid = f.ftserver
 where {_USER} and c.relpersistence <> 't' and c.relkind in ('r', 'p', 'f', 'm') and {_own("pg_class", "c.oid")}
   and (t.reloptions is not null or m.amname <> 'heap' or f.ftrelid is not null)""",
    _named("pg_cast", "o.castfunc::regprocedure, o.castcontext, o.castmethod"),
    _named(
        "pg_operator",
        "o.oprcode, o.oprrest, o.oprjoin, o.oprcanmerge, o.oprcanhash,"
        "(select 'commutator ' || c.oid::regoperator from pg_operator c where c.oid = o.oprcom and c.oprcode <> 0),"
        "(select 'negator ' || c.oid::regoperator from pg_operator c where c.oid = o.oprnegate and c.oprcode <> 0)",
        " and o.oprcode <> 0",
    ),
    _named("pg_opclass", "o.opcdefault, o.opcintype::regtype, nullif(o.opckeytype, 0)::regtype"),
    _named(
        "pg_opfamily",
        "(select string_agg(concat_ws(' ', p.amopstrategy, p.amopopr::regoperator, p.amoppurpose), ', '"
        '   order by p.amopstrategy, p.amopopr::regoperator::text collate "C")'
        "   from pg_amop p where p.amopfamily = o.oid),"
        "(select string_agg(concat_ws(' ', p.amprocnum, p.amproclefttype::regtype, p.amprocrighttype::regtype,"
        "   p.amproc::regprocedure), ', ' order by p.amprocnum, p.amproc::regprocedure::text collate \"C\","
        '   p.amproclefttype::regtype::text collate "C", p.amprocrighttype::regtype::text collate "C")'
        "   from pg_amproc p where p.amprocfamily = o.oid)",
    ),
    _named(
        "pg_ts_config",
        "(select prsname from pg_ts_parser p where p.oid = o.cfgparser),"
        "(select string_agg(concat_ws(' ', m.maptokentype, m.mapseqno, m.mapdict::regdictionary), ', '"
        "   order by m.maptokentype, m.mapseqno) from pg_ts_config_map m where m.mapcfg = o.oid)",
    ),
    _named("pg_ts_dict", "(select tmplname from pg_ts_template t where t.oid = o.dicttemplate), o.dictinitoption"),
    _named("pg_ts_parser", "o.prsstart, o.prstoken, o.prsend, o.prsheadline, o.prslextype"),
    _named("pg_ts_template", "o.tmplinit, o.tmpllexize"),
    _named(
        "pg_foreign_data_wrapper",
        f"o.fdwhandler::regproc, o.fdwvalidator::regproc, {sorted_options('o.fdwoptions')}",
    ),
    _named(
        "pg_foreign_server",
        "(select fdwname from pg_foreign_data_wrapper w where w.oid = o.srvfdw), o.srvtype, o.srvversion,"
        f" {sorted_options('o.srvoptions')}",
    ),
    USER_MAPPINGS,
    f"""
select format('statistics %I.%I', n.nspname, o.stxname), to_jsonb(o) ->> 'stxstattarget'
  from pg_statistic_ext o join pg_namespace n on n.oid = o.stxnamespace
 where (to_jsonb(o) ->> 'stxstattarget')::integer >= 0 and {_own("pg_statistic_ext", "o.oid")}""",
    _named(
        "pg_language",
        "o.lanpltrusted, o.lanplcallfoid::regproc, o.laninline::regproc, o.lanvalidator::regproc",
    ),
    _named("pg_conversion", "o.conproc, o.conforencoding, o.contoencoding, o.condefault"),
    _named(
        "pg_collation",
        "o.collprovider, o.collisdeterministic, o.collencoding, coalesce(to_jsonb(o) ->> 'colllocale',"
        " to_jsonb(o) ->> 'colliculocale', o.collcollate), case when o.collprovider = 'c' then o.collctype end,"
        " to_jsonb(o) ->> 'collicurules'",
    ),
    _named("pg_am", "o.amtype, o.amhandler"),
    f"""
select format('type %I.%I', n.nspname, o.typname),
       concat_ws(', ', case when o.typtype = 'd' then o.typcollation::regcollation::text end,
         (select concat_ws(' ', c.opcname, nullif(r.rngcollation, 0)::regcollation, r.rngcanonical, r.rngsubdiff,
                           nullif(to_jsonb(r) ->> 'rngmultitypid', '0')::oid::regtype)
            from pg_range r join pg_opclass c on c.oid = r.rngsubopc where r.rngtypid = o.oid),
         (select string_agg(a.attname || ' ' || a.attcollation::regcollation, ',' order by a.attnum)
            from pg_attribute a join pg_type t on t.oid = a.atttypid
           where a.attrelid = o.typrelid and not a.attisdropped and a.attcollation not in (0, t.typcollation)),
         case when o.typtype = 'b' then concat_ws(' ', o.typlen, o.typbyval, o.typcategory, o.typispreferred,
              o.typdelim, o.typinput, o.typoutput, o.typreceive, o.typsend, o.typmodin, o.typmodout, o.typanalyze,
              o.typalign, o.typstorage, o.typcollation, o.typdefault) end)
  from pg_type o join pg_namespace n on n.oid = o.typnamespace left join pg_class c on c.oid = o.typrelid
 where {_USER} and {_own("pg_type", "o.oid")} and o.typelem = 0
   and (o.typtype in ('r', 'b') or (o.typtype = 'd' and o.typcollation <> 0) or c.relkind = 'c')""",
    f"""
select 'aggregate ' || p.oid::regprocedure,
       concat_ws(', ', a.aggfinalextra, a.aggfinalmodify, a.aggtransspace, a.aggserialfn, a.aggdeserialfn,
         a.aggmtransfn, a.aggminvtransfn, a.aggmfinalfn, nullif(a.aggmtranstype, 0)::regtype, a.aggminitval,
         p.proparallel, p.prosecdef)
  from pg_aggregate a join pg_proc p on p.oid = a.aggfnoid join pg_namespace n on n.oid = p.pronamespace
 where {_USER} and {_own("pg_proc", "p.oid")}""",
    """
select concat_ws(' ', i.type, i.identity, 'depends on extension', quote_ident(e.extname)), ''
  from pg_depend d join pg_extension e on e.oid = d.refobjid and d.refclassid = 'pg_extension'::regclass
  join lateral pg_identify_object(d.classid, d.objid, d.objsubid) i on true
 where d.deptype = 'x'""",
    """
select concat_ws(' ', 'label of', s.provider, 'for', i.type, i.identity), s.label
  from pg_seclabel s join lateral pg_identify_object(s.classoid, s.objoid, s.objsubid) i on true""",
    # Also those without content, which have no pages.
    """
select 'large objects', concat_ws(' ', count(*), sum(hashtextextended(oid::text, 0)::numeric))
  from pg_largeobject_metadata having count(*) > 0""",
)

# Owners beyond those of tables, types, functions and schemas: catalog and its column.
_OWNED = {
    "pg_event_trigger": "evtowner",
    "pg_foreign_data_wrapper": "fdwowner",
    "pg_foreign_server": "srvowner",
    "pg_publication": "pubowner",
    "pg_collation": "collowner",
    "pg_conversion": "conowner",
    "pg_operator": "oprowner",
    "pg_opclass": "opcowner",
    "pg_opfamily": "opfowner",
    "pg_ts_dict": "dictowner",
    "pg_ts_config": "cfgowner",
    "pg_statistic_ext": "stxowner",
    "pg_language": "lanowner",
}
_OWNERS = (
    *(
        _named(catalog, f"pg_get_userbyid(o.{column})", " and o.oprcode <> 0" if catalog == "pg_operator" else "")
        for catalog, column in _OWNED.items()
    ),
    f"""
select format('type %I.%I', n.nspname, o.typname), pg_get_userbyid(o.typowner)
  from pg_type o join pg_namespace n on n.oid = o.typnamespace
 where o.typtype = 'b' and o.typelem = 0 and {_USER} and {_own("pg_type", "o.oid")}""",
    """
select format('subscription %I', s.subname), pg_get_userbyid(s.subowner) from pg_subscription s
 where s.subdbid = (select oid from pg_database where datname = current_database())""",
)


def _rights(column: str, kind: str, owner: str) -> str:
    """Who may what, without the owner, who may everything; rights that the owner gave are given by `owner`."""
    return f"""
coalesce((select string_agg(line, e'\\n' order by line collate "C") from (
   select format('%s=%s/%s', case when x.grantee = 0 then 'PUBLIC' else pg_get_userbyid(x.grantee) end,
                 string_agg(x.privilege_type || case when x.is_grantable then '*' else '' end, ','
                            order by x.privilege_type collate "C"),
                 case when x.grantor = {owner} then 'owner' else pg_get_userbyid(x.grantor) end) as line
     from aclexplode(coalesce({column}, acldefault('{kind}', {owner}))) x
    where x.grantee <> {owner} group by x.grantee, x.grantor) lines), '')"""


_GRANTS = (
    f"select format('language %I', l.lanname), {_rights('l.lanacl', 'l', 'l.lanowner')} from pg_language l"
    f" where l.oid < {_FIRST_OF_THE_SITE} or {_own('pg_language', 'l.oid')}",
    f"select format('foreign-data wrapper %I', w.fdwname), {_rights('w.fdwacl', 'F', 'w.fdwowner')}"
    " from pg_foreign_data_wrapper w",
    f"select format('server %I', s.srvname), {_rights('s.srvacl', 'S', 's.srvowner')} from pg_foreign_server s",
    # One line for all of them: there may be millions.
    """
select 'large objects', sum(hashtextextended(concat_ws(' ', l.oid, pg_get_userbyid(l.lomowner),
       (select string_agg(concat_ws(' ', case when x.grantee = 0 then 'PUBLIC' else pg_get_userbyid(x.grantee) end,
                                    x.privilege_type, x.is_grantable), ',' order by x.grantee = 0,
                          pg_get_userbyid(x.grantee), x.privilege_type)
          from aclexplode(l.lomacl) x where x.grantee <> l.lomowner)), 0)::numeric)::text
  from pg_largeobject_metadata l having count(*) > 0""",
)

# The classes whose comments `catalog.queries` does not ask for. Extensions bring their own.
_COMMENTED = (
    "pg_event_trigger",
    "pg_foreign_data_wrapper",
    "pg_foreign_server",
    "pg_publication",
    "pg_collation",
    "pg_conversion",
    "pg_operator",
    "pg_opclass",
    "pg_opfamily",
    "pg_ts_dict",
    "pg_ts_config",
    "pg_ts_parser",
    "pg_ts_template",
    "pg_statistic_ext",
    "pg_cast",
    "pg_rewrite",
    "pg_language",
    "pg_am",
    "pg_largeobject",
    "pg_transform",
)
_COMMENTS = f"""
select concat_ws(' ', i.type, i.identity), d.description
  from pg_description d join lateral pg_identify_object(d.classoid, d.objoid, d.objsubid) i on true
 where d.classoid in ({", ".join(f"'{catalog}'::regclass" for catalog in _COMMENTED)})
   and (d.objoid >= {_FIRST_OF_THE_SITE} or d.classoid = 'pg_largeobject'::regclass)
   and not exists (select from pg_depend x where x.classid = d.classoid and x.objid = d.objoid and x.deptype = 'e')"""

_SUBSCRIPTIONS = """
select format('%I', s.subname), (select string_agg(p, ',' order by p collate "C") from unnest(s.subpublications) p)
  from pg_subscription s where s.subdbid = (select oid from pg_database where datname = current_database())"""

# What hangs on an extension's table: partly the extension's own, partly a site's, which pg_dump does not write.
_ON_EXTENSIONS_TABLE = """
exists (select from pg_depend d where d.classid = 'pg_class'::regclass and d.objid = {} and d.deptype = 'e')"""
_ATTACHED = tuple(
    f"""{query} and n.nspname !~ '^pg_' and {_ON_EXTENSIONS_TABLE.format("c.oid")}"""
    for query in (
        """
select format('index %I.%I', n.nspname, x.relname), pg_get_indexdef(x.oid)
  from pg_index i join pg_class x on x.oid = i.indexrelid join pg_class c on c.oid = i.indrelid
  join pg_namespace n on n.oid = c.relnamespace where true""",
        """
select format('constraint %I.%I.%I', n.nspname, c.relname, k.conname), pg_get_constraintdef(k.oid)
  from pg_constraint k join pg_class c on c.oid = k.conrelid join pg_namespace n on n.oid = c.relnamespace
 where k.contype not in ('n', 't')""",
        """
select format('trigger %I.%I.%I', n.nspname, c.relname, t.tgname), pg_get_triggerdef(t.oid)
  from pg_trigger t join pg_class c on c.oid = t.tgrelid join pg_namespace n on n.oid = c.relnamespace
 where not t.tgisinternal""",
        """
select format('rule %I.%I.%I', n.nspname, c.relname, r.rulename), pg_get_ruledef(r.oid)
  from pg_rewrite r join pg_class c on c.oid = r.ev_class join pg_namespace n on n.oid = c.relnamespace
 where r.rulename <> '_RETURN'""",
        """
select format('statistics %I.%I', sn.nspname, s.stxname), ''
  from pg_statistic_ext s join pg_class c on c.oid = s.stxrelid join pg_namespace n on n.oid = c.relnamespace
  join pg_namespace sn on sn.oid = s.stxnamespace where true""",
        """
select format('column %I.%I.%I', n.nspname, c.relname, a.attname), format_type(a.atttypid, a.atttypmod)
  from pg_attribute a join pg_class c on c.oid = a.attrelid join pg_namespace n on n.oid = c.relnamespace
 where a.attnum > 0 and not a.attisdropped and c.relkind in ('r', 'p')""",
    )
)

_PUBLISHED = """
select format('%I', p.pubname),
       concat_ws(' | ', p.pubviaroot, nullif(to_jsonb(p) ->> 'pubgencols', 'n'), {schemas},
         (select string_agg(concat_ws(' ', t.prrelid::regclass, {columns}, {rows}), ','
                            order by t.prrelid::regclass::text collate "C")
            from pg_publication_rel t where t.prpubid = p.oid))
  from pg_publication p"""
_SCHEMAS = """(select string_agg(quote_ident(n.nspname), ',' order by n.nspname) from pg_publication_namespace s
                 join pg_namespace n on n.oid = s.pnnspid where s.pnpubid = p.oid)"""
_PUBLISHED_COLUMNS = """(select string_agg(quote_ident(a.attname), ' ' order by a.attnum) from pg_attribute a
                 where a.attrelid = t.prrelid and a.attnum = any(t.prattrs::int2[]))"""
_PUBLISHED_ROWS = "pg_get_expr(t.prqual, t.prrelid)"
_PUBLISHES_PARTS_SINCE = 15


def detail_queries(major: int) -> dict[str, tuple[str, ...]]:
    """Return kind → questions for a server of that major version."""
    parts = major >= _PUBLISHES_PARTS_SINCE
    published = _PUBLISHED.format(
        schemas=_SCHEMAS if parts else "null",
        columns=_PUBLISHED_COLUMNS if parts else "null",
        rows=_PUBLISHED_ROWS if parts else "null",
    )
    return {
        "definition": _DEFINITIONS,
        "other owner": _OWNERS,
        "other grant": _GRANTS,
        "other comment": (_COMMENTS,),
        "subscription": (_SUBSCRIPTIONS,),
        "published": (published,),
        ATTACHED: _ATTACHED,
        COLUMN_OPTIONS: (_COLUMN_OPTIONS,),
    }
