"""Queries of the system catalog, named and commented; each row of OBJECTS' results is (identity, definition).

Only SQL here. All names come out quoted and qualified because the sessions have `search_path = pg_catalog`.
"""
# ruff: noqa: S608 — the texts are put together from constants of this module only.

from __future__ import annotations

_USER = "n.nspname !~ '^pg_' and n.nspname <> 'information_schema'"


def _own(catalog: str, column: str) -> str:
    """A condition: the object belongs to no extension (those come back with the extension)."""
    return (
        f"not exists (select from pg_depend d where d.classid = '{catalog}'::regclass and d.objid = {column} "
        "and d.deptype = 'e')"
    )


def sorted_options(column: str) -> str:
    """An SQL expression: an array of `name=value` without the order in which they were given, which means nothing."""
    return f"""(select array_agg(o order by o collate "C") from unnest({column}) o)::text"""


def _own_rows(column: str) -> str:
    """A condition: a dump holds rows of the table or sequence, an extension's only where they are the site's to set."""
    return f"({_own('pg_class', column)} or exists (select from pg_extension e where {column} = any(e.extconfig)))"


def _tables(pages: str, size: str) -> str:
    return f"""
select c.oid::bigint, n.nspname, c.relname, c.relkind::text, c.relrowsecurity, pn.nspname, p.relname, {pages}, {size}
  from pg_class c join pg_namespace n on n.oid = c.relnamespace
  left join pg_inherits i on i.inhrelid = c.oid and c.relispartition
  left join pg_class p on p.oid = i.inhparent
  left join pg_namespace pn on pn.oid = p.relnamespace
 where c.relkind in ('r', 'p', 'f') and c.relpersistence <> 't' and {_USER} and {_own_rows("c.oid")}
 order by 2, 3
"""


# Asking for sizes waits for tables that a migration holds; the names alone never wait.
TABLES = _tables("0", "0")
TABLES_WITH_SIZES = _tables(
    # Only some rows of an extension's table are exported: it is read in one piece.
    "case when c.relkind = 'r' and not exists (select from pg_extension e where c.oid = any(e.extconfig))"
    " then pg_relation_size(c.oid) / current_setting('block_size')::int else 0 end",
    "case when c.relkind = 'r' then pg_table_size(c.oid) else 0 end",
)

# Whether a column `a` may hold nulls. Since version 18 NOT NULL can be NOT VALID: older rows may hold some then.
NULLABLE = """
(not a.attnotnull or exists (select from pg_constraint v where v.conrelid = a.attrelid and v.contype = 'n'
                                and not v.convalidated and a.attnum = any(v.conkey)))"""

COLUMNS = f"""
select c.oid::bigint, a.attname, format_type(a.atttypid, a.atttypmod), {NULLABLE}, a.attgenerated <> ''
  from pg_class c join pg_namespace n on n.oid = c.relnamespace
  join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
 where c.relkind in ('r', 'p', 'f') and c.relpersistence <> 't' and {_USER}
 order by c.oid, a.attnum
"""

# Types whose text says as much as their equality: equal values are written equally. Of numeric and character(n) only
# with a modifier, which fixes digits and blanks. All others (interval, jsonb, arrays, ranges, …) are not.
_WRITTEN_AS_COMPARED = (
    "bool,bytea,char,name,int2,int4,int8,oid,text,float4,float8,date,time,timetz,timestamp,timestamptz,uuid,macaddr,"
    "macaddr8,inet,money,bit,varbit,pg_lsn,tid,xid8,anyenum"
)

# Unique indexes (those of primary keys and constraints too, these first) that are valid, with how each column of the
# key is compared. An index of an expression or of some rows comes without columns. The type is the operator class's:
# the one below domains. Collations: only those that are not deterministic.
KEYS = f"""
select i.indrelid::bigint, i.indisprimary, ic.relname::text,
       i.indpred is not null or 0 = any(i.indkey::int2[]),
       coalesce((to_jsonb(i) ->> 'indnullsnotdistinct')::boolean, false),
       k.names, k.equality, k.collations
  from pg_index i join pg_class c on c.oid = i.indrelid join pg_namespace n on n.oid = c.relnamespace
  join pg_class ic on ic.oid = i.indexrelid
  left join pg_constraint con on con.conindid = i.indexrelid and con.conrelid = i.indrelid and con.contype in ('p', 'u')
  cross join lateral (
    select array_agg(a.attname::text order by pos) as names,
           max(case when not o.opcdefault
                         and not (o.opcname ~ '(pattern|varchar|cidr)_ops$' and on_.nspname = 'pg_catalog') then 2
                    when coll.oid is not null or on_.nspname <> 'pg_catalog' then 1
                    when ot.typname = any('{{{_WRITTEN_AS_COMPARED}}}') then 0
                    when ot.typname in ('numeric', 'bpchar') and coalesce(nullif(a.atttypmod, -1), t.typtypmod) <> -1
                         then 0
                    else 1 end) as equality,
           array_agg(coalesce(quote_ident(cn.nspname) || '.' || quote_ident(coll.collname), '') order by pos)
             as collations
      from generate_series(0, i.indnkeyatts - 1) pos
      join pg_attribute a on a.attrelid = i.indrelid and a.attnum = i.indkey[pos]
      join pg_type t on t.oid = a.atttypid
      join pg_opclass o on o.oid = i.indclass[pos] join pg_namespace on_ on on_.oid = o.opcnamespace
      join pg_type ot on ot.oid = o.opcintype
      left join pg_collation coll on coll.oid = i.indcollation[pos]
           and not coalesce((to_jsonb(coll) ->> 'collisdeterministic')::boolean, true)
      left join pg_namespace cn on cn.oid = coll.collnamespace
  ) k
 where i.indisunique and i.indisvalid and {_USER}
 order by i.indrelid, con.contype, ic.relname
"""

FOREIGN_KEYS = f"""
select k.conrelid::bigint,
       array(select a.attname::text from unnest(k.conkey) with ordinality u (num, pos)
               join pg_attribute a on a.attrelid = k.conrelid and a.attnum = u.num order by u.pos),
       fn.nspname, f.relname,
       array(select a.attname::text from unnest(k.confkey) with ordinality u (num, pos)
               join pg_attribute a on a.attrelid = k.confrelid and a.attnum = u.num order by u.pos)
  from pg_constraint k join pg_class c on c.oid = k.conrelid join pg_namespace n on n.oid = c.relnamespace
  join pg_class f on f.oid = k.confrelid join pg_namespace fn on fn.oid = f.relnamespace
 where k.contype = 'f' and k.conparentid = 0 and {_USER}
 order by k.conrelid, k.conname
"""

SEQUENCES = f"""
select format('%I.%I', n.nspname, c.relname),
       concat_ws(' ', format_type(s.seqtypid, null), 'start', s.seqstart, 'by', s.seqincrement, 'min', s.seqmin,
                 'max', s.seqmax, 'cache', s.seqcache, case when s.seqcycle then 'cycle' end,
                 case when c.relpersistence = 'u' then 'unlogged' end,
                 (select concat('owned by ', format('%I.%I.%I', tn.nspname, t.relname, a.attname),
                                case d.deptype when 'i' then ' identity' end)
                    from pg_depend d join pg_class t on t.oid = d.refobjid
                    join pg_namespace tn on tn.oid = t.relnamespace
                    join pg_attribute a on a.attrelid = t.oid and a.attnum = d.refobjsubid
                   where d.classid = 'pg_class'::regclass and d.objid = c.oid and d.deptype in ('a', 'i')
                     and d.refclassid = 'pg_class'::regclass and d.refobjsubid > 0 limit 1)),
       s.seqincrement,
       has_sequence_privilege(c.oid, 'select')
  from pg_sequence s join pg_class c on c.oid = s.seqrelid join pg_namespace n on n.oid = c.relnamespace
 where c.relpersistence <> 't' and {_USER} and {_own_rows("c.oid")}
 order by 1
"""

READABLE: dict[str, str] = {
    "schema": f"""
select format('%I', n.nspname), '' from pg_namespace n where {_USER} and {_own("pg_namespace", "n.oid")}""",
    "table": f"""
select format('%I.%I', n.nspname, c.relname),
       concat_ws(', ',
         case c.relkind when 'r' then 'table' when 'p' then 'partitioned table' else 'foreign table' end,
         case when c.relpersistence = 'u' then 'unlogged' end,
         case when c.relrowsecurity then 'row security' end,
         case when c.relforcerowsecurity then 'forced row security' end,
         case when c.relreplident <> 'd' then 'replica identity ' || c.relreplident::text end,
         case when c.relispartition then pg_get_expr(c.relpartbound, c.oid) end,
         case when c.relkind = 'p' then 'by ' || pg_get_partkeydef(c.oid) end,
         (select 'inherits ' || string_agg(i.inhparent::regclass::text, ' ' order by i.inhseqno)
            from pg_inherits i where i.inhrelid = c.oid),
         (select 'with ' || string_agg(o, ' ' order by o collate "C") from unnest(c.reloptions) o),
         case when c.reloftype <> 0 then 'of ' || c.reloftype::regtype::text end,
         case when c.reltablespace <> 0 then 'in a tablespace' end)
  from pg_class c join pg_namespace n on n.oid = c.relnamespace
 where c.relkind in ('r', 'p', 'f') and c.relpersistence <> 't' and {_USER} and {_own("pg_class", "c.oid")}""",
    "column": f"""
select format('%I.%I.%I', n.nspname, c.relname, a.attname),
       concat_ws(', ', format_type(a.atttypid, a.atttypmod),
         case when a.attnotnull then 'not null' end,
         case a.attidentity when 'a' then 'identity always' when 'd' then 'identity by default' end,
         case a.attgenerated when 's' then 'generated' when 'v' then 'virtual' end,
         case when a.attcollation not in (0, t.typcollation) then 'collate ' || a.attcollation::regcollation::text end,
         case when a.attstorage <> t.typstorage then 'storage ' || a.attstorage::text end)
  from pg_class c join pg_namespace n on n.oid = c.relnamespace
  join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
  join pg_type t on t.oid = a.atttypid
 where c.relkind in ('r', 'p', 'f') and c.relpersistence <> 't' and {_USER} and {_own("pg_class", "c.oid")}""",
    # Not-null constraints are skipped: before version 18 the catalog did not hold them, and `column` says the same.
    # So are foreign keys that follow from a partitioned table's own: the server names and numbers them as it likes.
    "constraint": f"""
select case when k.conrelid = 0 then format('%s.%I', k.contypid::regtype, k.conname)
            else format('%I.%I.%I', n.nspname, c.relname, k.conname) end,
       pg_get_constraintdef(k.oid)
  from pg_constraint k join pg_namespace n on n.oid = k.connamespace
  left join pg_class c on c.oid = k.conrelid
 where k.contype not in ('n', 't') and (k.contype <> 'f' or k.conparentid = 0)
   and {_USER} and {_own("pg_constraint", "k.oid")}
   and (k.conrelid = 0 or {_own("pg_class", "k.conrelid")})""",
    "index": f"""
select format('%I.%I', n.nspname, c.relname),
       concat_ws(', ', pg_get_indexdef(c.oid), case when not i.indisvalid then 'invalid' end,
                 case when i.indisclustered then 'clustered' end,
                 case when i.indisreplident then 'replica identity' end)
  from pg_index i join pg_class c on c.oid = i.indexrelid join pg_namespace n on n.oid = c.relnamespace
 where {_USER} and {_own("pg_class", "i.indrelid")} and c.relpersistence <> 't'""",
    "extension": """
select format('%I', extname), extversion from pg_extension where extname <> 'plpgsql'""",
    "enum": f"""
select format('%I.%I', n.nspname, t.typname),
       (select string_agg(quote_literal(e.enumlabel), ', ' order by e.enumsortorder)
          from pg_enum e where e.enumtypid = t.oid)
  from pg_type t join pg_namespace n on n.oid = t.typnamespace
 where t.typtype = 'e' and {_USER} and {_own("pg_type", "t.oid")}""",
    "domain": f"""
select format('%I.%I', n.nspname, t.typname),
       concat_ws(', ', format_type(t.typbasetype, t.typtypmod), case when t.typnotnull then 'not null' end,
                 -- Not typdefault: that is the text as it was first written, with names as they were resolved then.
                 'default ' || pg_get_expr(t.typdefaultbin, 0))
  from pg_type t join pg_namespace n on n.oid = t.typnamespace
 where t.typtype = 'd' and {_USER} and {_own("pg_type", "t.oid")}""",
    "composite type": f"""
select format('%I.%I', n.nspname, t.typname),
       (select string_agg(format('%I %s', a.attname, format_type(a.atttypid, a.atttypmod)), ', ' order by a.attnum)
          from pg_attribute a where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped)
  from pg_type t join pg_namespace n on n.oid = t.typnamespace join pg_class c on c.oid = t.typrelid
 where t.typtype = 'c' and c.relkind = 'c' and {_USER} and {_own("pg_type", "t.oid")}""",
    "range type": f"""
select format('%I.%I', n.nspname, t.typname), format_type(r.rngsubtype, null)
  from pg_range r join pg_type t on t.oid = r.rngtypid join pg_namespace n on n.oid = t.typnamespace
 where {_USER} and {_own("pg_type", "t.oid")}""",
    "owner": f"""
select format('%s %I.%I', case c.relkind when 'S' then 'sequence' when 'v' then 'view' when 'm' then 'materialized view'
              when 'c' then 'composite type' else 'table' end, n.nspname, c.relname), pg_get_userbyid(c.relowner)
  from pg_class c join pg_namespace n on n.oid = c.relnamespace
 where c.relkind in ('r', 'p', 'f', 'v', 'm', 'S', 'c') and c.relpersistence <> 't' and {_USER}
   and {_own("pg_class", "c.oid")}
   -- Of a composite type it is the type that belongs to an extension, not its entry among the tables.
   and (c.relkind <> 'c' or {_own("pg_type", "c.reltype")})
union all
select format('schema %I', n.nspname), pg_get_userbyid(n.nspowner) from pg_namespace n
 where {_USER} and {_own("pg_namespace", "n.oid")}
union all
select 'function ' || p.oid::regprocedure, pg_get_userbyid(p.proowner)
  from pg_proc p join pg_namespace n on n.oid = p.pronamespace where {_USER} and {_own("pg_proc", "p.oid")}
union all
select format('type %I.%I', n.nspname, t.typname), pg_get_userbyid(t.typowner)
  from pg_type t join pg_namespace n on n.oid = t.typnamespace
 where t.typtype in ('e', 'd', 'r') and {_USER} and {_own("pg_type", "t.oid")}""",
}

# Access rights: a null ACL means the type's default, so the default is put in; entries sorted, one per line.
_ACL = """
coalesce((select string_agg(line, e'\\n' order by line collate "C") from (
   select format('%s=%s/%s', case when x.grantee = 0 then 'PUBLIC' else pg_get_userbyid(x.grantee) end,
                 string_agg(x.privilege_type || case when x.is_grantable then '*' else '' end, ',' order by
                            x.privilege_type collate "C"),
                 pg_get_userbyid(x.grantor)) as line
     from aclexplode({acl}) x group by x.grantee, x.grantor) lines), '')
"""


def _acl(column: str, kind: str, owner: str) -> str:
    return _ACL.format(acl=f"coalesce({column}, acldefault('{kind}', {owner}))")


GRANTS = f"""
select format('%s %I.%I', case c.relkind when 'S' then 'sequence' when 'v' then 'view' when 'm' then 'materialized view'
              else 'table' end, n.nspname, c.relname),
       case when c.relkind = 'S' then {_acl("c.relacl", "s", "c.relowner")}
            else {_acl("c.relacl", "r", "c.relowner")} end
  from pg_class c join pg_namespace n on n.oid = c.relnamespace
 where c.relkind in ('r', 'p', 'f', 'v', 'm', 'S') and c.relpersistence <> 't' and {_USER}
   and {_own("pg_class", "c.oid")}
union all
select format('column %I.%I.%I', n.nspname, c.relname, a.attname), {_ACL.format(acl="a.attacl")}
  from pg_attribute a join pg_class c on c.oid = a.attrelid join pg_namespace n on n.oid = c.relnamespace
 where a.attacl is not null and not a.attisdropped and {_USER} and {_own("pg_class", "c.oid")}
union all
select format('schema %I', n.nspname), {_acl("n.nspacl", "n", "n.nspowner")}
  from pg_namespace n where {_USER} and {_own("pg_namespace", "n.oid")}
union all
select 'function ' || p.oid::regprocedure, {_acl("p.proacl", "f", "p.proowner")}
  from pg_proc p join pg_namespace n on n.oid = p.pronamespace where {_USER} and {_own("pg_proc", "p.oid")}
union all
select format('type %I.%I', n.nspname, t.typname), {_acl("t.typacl", "T", "t.typowner")}
  from pg_type t join pg_namespace n on n.oid = t.typnamespace
 where t.typtype in ('e', 'd', 'r') and {_USER} and {_own("pg_type", "t.oid")}
"""

DEFAULT_PRIVILEGES = f"""
select concat_ws(' ', 'for role', quote_ident(pg_get_userbyid(a.defaclrole)), 'in schema ' || quote_ident(n.nspname),
                 'on', case a.defaclobjtype when 'r' then 'tables' when 'S' then 'sequences' when 'f' then 'functions'
                       when 'T' then 'types' when 'n' then 'schemas' else a.defaclobjtype::text end),
       {_ACL.format(acl="a.defaclacl")}
  from pg_default_acl a left join pg_namespace n on n.oid = a.defaclnamespace
"""

# Definitions that may hold literals of the site's own (a web hook's key in a trigger, a constant in a function): only
# their digests are kept.
OPAQUE: dict[str, str] = {
    "default": f"""
select format('%I.%I.%I', n.nspname, c.relname, a.attname), pg_get_expr(x.adbin, x.adrelid)
  from pg_attrdef x join pg_class c on c.oid = x.adrelid join pg_namespace n on n.oid = c.relnamespace
  join pg_attribute a on a.attrelid = x.adrelid and a.attnum = x.adnum
 where {_USER} and c.relpersistence <> 't' and {_own("pg_class", "c.oid")}""",
    "view": f"""
select format('%I.%I', n.nspname, c.relname), concat_ws(' ', pg_get_viewdef(c.oid), {sorted_options("c.reloptions")})
  from pg_class c join pg_namespace n on n.oid = c.relnamespace
 where c.relkind = 'v' and c.relpersistence <> 't' and {_USER} and {_own("pg_class", "c.oid")}""",
    "materialized view": f"""
select format('%I.%I', n.nspname, c.relname),
       concat_ws(' ', pg_get_viewdef(c.oid), {sorted_options("c.reloptions")},
                 case when not c.relispopulated then 'not populated' end)
  from pg_class c join pg_namespace n on n.oid = c.relnamespace
 where c.relkind = 'm' and {_USER} and {_own("pg_class", "c.oid")}""",
    "function": f"""
select p.oid::regprocedure::text, pg_get_functiondef(p.oid)
  from pg_proc p join pg_namespace n on n.oid = p.pronamespace
 where p.prokind <> 'a' and {_USER} and {_own("pg_proc", "p.oid")}""",
    "aggregate": f"""
select p.oid::regprocedure::text, concat_ws(' ', a.aggtransfn, a.aggfinalfn, a.aggtranstype::regtype, a.agginitval,
       a.aggkind, a.aggcombinefn, a.aggsortop::regoperator)
  from pg_aggregate a join pg_proc p on p.oid = a.aggfnoid join pg_namespace n on n.oid = p.pronamespace
 where {_USER} and {_own("pg_proc", "p.oid")}""",
    "trigger": f"""
select format('%I.%I.%I', n.nspname, c.relname, t.tgname), pg_get_triggerdef(t.oid) || ' ' || t.tgenabled::text
  from pg_trigger t join pg_class c on c.oid = t.tgrelid join pg_namespace n on n.oid = c.relnamespace
 where not t.tgisinternal and {_USER} and {_own("pg_trigger", "t.oid")} and {_own("pg_class", "c.oid")}""",
    "policy": f"""
select format('%I.%I.%I', n.nspname, c.relname, p.polname),
       concat_ws(' | ', p.polcmd, p.polpermissive,
         (select string_agg(case when r = 0 then 'PUBLIC' else pg_get_userbyid(r) end, ',' order by r::bigint = 0,
                            pg_get_userbyid(r)) from unnest(p.polroles) r),
         'using ' || pg_get_expr(p.polqual, p.polrelid), 'check ' || pg_get_expr(p.polwithcheck, p.polrelid))
  from pg_policy p join pg_class c on c.oid = p.polrelid join pg_namespace n on n.oid = c.relnamespace
 where {_USER}""",
    "rule": f"""
select format('%I.%I.%I', n.nspname, c.relname, r.rulename), pg_get_ruledef(r.oid) || ' ' || r.ev_enabled::text
  from pg_rewrite r join pg_class c on c.oid = r.ev_class join pg_namespace n on n.oid = c.relnamespace
 where r.rulename <> '_RETURN' and {_USER} and {_own("pg_class", "c.oid")}""",
    "event trigger": f"""
select format('%I', t.evtname), concat_ws(' ', t.evtevent, t.evtfoid::regproc, t.evtenabled, t.evttags::text)
  from pg_event_trigger t where {_own("pg_event_trigger", "t.oid")}""",
    "statistics": f"""
select format('%I.%I', n.nspname, s.stxname), pg_get_statisticsobjdef(s.oid)
  from pg_statistic_ext s join pg_namespace n on n.oid = s.stxnamespace
 where {_USER} and {_own("pg_statistic_ext", "s.oid")}""",
    "publication": """
select format('%I', p.pubname), concat_ws(' ', p.puballtables, p.pubinsert, p.pubupdate, p.pubdelete, p.pubtruncate,
       (select string_agg(t.prrelid::regclass::text, ',' order by t.prrelid::regclass::text collate "C")
          from pg_publication_rel t where t.prpubid = p.oid)) from pg_publication p""",
    "comment": """
select concat_ws(' ', i.type, i.identity), d.description
  from pg_description d join lateral pg_identify_object(d.classoid, d.objoid, d.objsubid) i on true
 where d.classoid in ('pg_class'::regclass, 'pg_proc'::regclass, 'pg_type'::regclass, 'pg_namespace'::regclass,
                      'pg_constraint'::regclass, 'pg_trigger'::regclass, 'pg_policy'::regclass)
   -- Of what every database has only schemas are a site's to comment; to name all the rest takes long.
   and (d.objoid >= 16384 or d.classoid = 'pg_namespace'::regclass)
   and coalesce(i.schema, '') !~ '^pg_' and coalesce(i.schema, '') <> 'information_schema'
   and i.identity !~ '(^|on )"?(pg_|information_schema)'
   and not exists (select from pg_depend x where x.classid = d.classoid and x.objid = d.objoid and x.deptype = 'e')""",
    # Rarer kinds: that they are there and what they are called. An operator without function is only a promise that
    # another one made (its commutator), which pg_dump does not write.
    "other": " union all ".join(
        f"""
select concat_ws(' ', i.type, i.identity), '' from {catalog} o
  join lateral pg_identify_object('{catalog}'::regclass, o.oid, 0) i on true
 where o.oid >= 16384 and {_own(catalog, "o.oid")}{" and o.oprcode <> 0" if catalog == "pg_operator" else ""}"""
        for catalog in (
            "pg_collation",
            "pg_operator",
            "pg_opclass",
            "pg_opfamily",
            "pg_cast",
            "pg_conversion",
            "pg_language",
            "pg_ts_config",
            "pg_ts_dict",
            "pg_ts_parser",
            "pg_ts_template",
            "pg_foreign_data_wrapper",
            "pg_foreign_server",
            "pg_transform",
        )
    ),
}

ROLES = """
select r.rolname, r.rolsuper, r.rolcanlogin, r.rolcreatedb, r.rolcreaterole, r.rolinherit, r.rolreplication,
       r.rolbypassrls, r.rolconnlimit, r.rolvaliduntil::text, r.oid::bigint
  from pg_roles r where r.rolname !~ '^pg_' order by 1
"""

# Roles that the objects of this database name: owners, grantees and grantors, those of policies and user mappings.
# The server keeps the list itself, so no access right has to be parsed. Its bootstrap superuser is in no entry.
NEEDED_ROLES = """
select distinct pg_get_userbyid(d.refobjid) from pg_shdepend d
 where d.refclassid = 'pg_authid'::regclass and d.deptype in ('o', 'a', 'r')
   and d.dbid = (select oid from pg_database where datname = current_database())
   and d.classid <> 'pg_extension'::regclass
   and (d.deptype <> 'o' or not exists (
         select from pg_depend x where x.classid = d.classid and x.objid = d.objid and x.deptype = 'e'))
   and not exists (select from pg_class c where d.classid = 'pg_class'::regclass and c.oid = d.objid
                      and c.relpersistence = 't')
"""

# The columns for inherit and set appeared in version 16; to_jsonb reads them only where they exist.
MEMBERSHIPS = """
select m.member::bigint, r.rolname, m.admin_option,
       coalesce((to_jsonb(m) ->> 'inherit_option')::boolean, true),
       coalesce((to_jsonb(m) ->> 'set_option')::boolean, true)
  from pg_auth_members m join pg_roles r on r.oid = m.roleid order by 1, 2
"""

SETTINGS = """
select s.setrole::bigint, s.setdatabase <> 0, unnest(s.setconfig)
  from pg_db_role_setting s
 where s.setdatabase in (0, (select oid from pg_database where datname = current_database())) order by 1, 2, 3
"""

DATABASE = """
select pg_encoding_to_char(encoding), datcollate, datctype, to_jsonb(d), current_setting('lc_monetary')
  from pg_database d where datname = current_database()
"""

# What the database needs of a server beyond extensions. Functions of XML are pinned, so no dependency names them: the
# stored trees are searched for their numbers. A column that only some server of version 14 has is asked for by JSON.
_XML_FUNCTIONS = """
select string_agg(':funcid ' || p.oid || ' ', '|') from pg_proc p
 where p.oid < 16384
   -- Of some three thousand names only these few are worth an expression.
   and case when p.proname like '%xml%' or p.proname like 'xpath%' then p.proname ~
   '^(xpath|xpath_exists|xml_is_well_formed.*|xmlexists|(table|query|schema|database|cursor)_to_xml.*)$' end
"""
# Bodies of functions are texts: whether one of these names stands there is all that is asked, nothing of it is kept.
_XML_NAMES = (
    r"'\m(xpath|xpath_exists|xml_is_well_formed\w*|xml(parse|element|exists|table|forest|agg|concat|pi|root|serialize)"
    r"|(table|query|schema|database|cursor)_to_xml\w*)\s*\(|::\s*xml\M'"
)
REQUIREMENTS = f"""
with used as (select '{{XMLEXPR|{{TABLEFUNC|' || ({_XML_FUNCTIONS}) as xml),
-- Used twice, so made first: the planner would read and search the system's own views before it asks whose they are.
rules as (select c.oid, c.relkind, c.relispopulated, c.relpersistence, n.nspname, c.relname, r.ev_action, r.ev_qual
            from pg_class c join pg_namespace n on n.oid = c.relnamespace join pg_rewrite r on r.ev_class = c.oid
           where {_USER})
select 'xml' where exists (
  select from pg_class c join pg_namespace n on n.oid = c.relnamespace
    join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
    join pg_type t on t.oid = a.atttypid
   where {_USER} and c.relkind in ('r', 'p', 'm') and c.relpersistence <> 't'
     and 142 in (t.oid, t.typelem, t.typbasetype))
   or exists (select from rules r cross join used
              where r.relkind = 'm' and r.relispopulated and r.ev_action::text ~ used.xml)
union
select 'icu' where exists (
  select from pg_collation o where o.collprovider = 'i' and (o.oid >= 16384 or exists (
    select from pg_depend d where d.refclassid = 'pg_collation'::regclass and d.refobjid = o.oid))
     and {_own("pg_collation", "o.oid")})
   or exists (select from pg_attribute a join pg_collation o on o.oid = a.attcollation
               join pg_class c on c.oid = a.attrelid join pg_namespace n on n.oid = c.relnamespace
              where o.collprovider = 'i' and {_USER} and a.attnum > 0 and not a.attisdropped)
union
select 'lz4' where exists (
  select from (
    select a.* from pg_attribute a join pg_class c on c.oid = a.attrelid join pg_namespace n on n.oid = c.relnamespace
     where {_USER} and c.relkind in ('r', 'p', 'm') and not a.attisdropped offset 0) a
   where to_jsonb(a) ->> 'attcompression' = 'l')
union
select 'locale ' || o.collcollate from pg_collation o
 where o.collprovider = 'c' and o.collcollate not in ('C', 'POSIX') and (o.oid >= 16384
       or exists (select from pg_depend d where d.refclassid = 'pg_collation'::regclass and d.refobjid = o.oid))
   and {_own("pg_collation", "o.oid")}
union
select 'superuser used by ' || case p.prokind when 'p' then 'procedure ' else 'function ' end || p.oid::regprocedure
  from pg_proc p join pg_namespace n on n.oid = p.pronamespace join pg_language l on l.oid = p.prolang
 where not l.lanpltrusted and l.lanname <> 'sql' and p.prokind <> 'a' and {_USER} and {_own("pg_proc", "p.oid")}
   and not (l.lanname = 'internal' and p.prosrc ~ '^(multi)?range_constructor[0-9]$')
   -- A drill makes this one all the same (see `load.dump_statements`).
   and not (l.lanname = 'c' and p.probin = '$libdir/unaccent' and p.prosrc = 'unaccent_dict' and p.proisstrict
            and oidvectortypes(p.proargtypes) = 'regdictionary, text')
union
select concat('xml used by ', case c.relkind when 'v' then 'view ' when 'm' then 'materialized view '
              else 'a rule of table ' end, format('%I.%I', c.nspname, c.relname))
  from rules c cross join used
 where not (c.relkind = 'm' and c.relispopulated) and c.relpersistence <> 't'
   and {_own("pg_class", "c.oid")} and concat(c.ev_action::text, c.ev_qual::text) ~ used.xml
union
select 'xml used by policy ' || quote_ident(o.polname) || ' of ' || o.polrelid::regclass
  from pg_policy o cross join used where concat(o.polqual::text, o.polwithcheck::text) ~ used.xml
union
select 'xml used by trigger ' || quote_ident(o.tgname) || ' of ' || o.tgrelid::regclass
  from pg_trigger o cross join used where o.tgqual is not null and o.tgqual::text ~ used.xml
union
select concat('xml used by ', case p.prokind when 'p' then 'procedure ' else 'function ' end, p.oid::regprocedure)
  from pg_proc p join pg_namespace n on n.oid = p.pronamespace join pg_language l on l.oid = p.prolang cross join used
 where {_USER} and {_own("pg_proc", "p.oid")} and l.lanname in ('sql', 'plpgsql')
   and (p.prosrc ~* {_XML_NAMES} or coalesce(to_jsonb(p) ->> 'prosqlbody', '') ~ used.xml)
union
select 'xml used by index ' || i.indexrelid::regclass from pg_index i join pg_class c on c.oid = i.indrelid
  join pg_namespace n on n.oid = c.relnamespace cross join used
 where {_USER} and c.relpersistence <> 't' and concat(i.indexprs::text, i.indpred::text) ~ used.xml
union
select concat('xml used by constraint ', quote_ident(k.conname), ' of ',
              case when k.conrelid <> 0 then k.conrelid::regclass::text else k.contypid::regtype::text end)
  from pg_constraint k join pg_namespace n on n.oid = k.connamespace cross join used
 where {_USER} and k.contype = 'c' and k.conbin::text ~ used.xml
union
select 'xml used by column ' || x.adrelid::regclass || '.' || quote_ident(a.attname)
  from pg_attrdef x join pg_attribute a on a.attrelid = x.adrelid and a.attnum = x.adnum
  join pg_class c on c.oid = x.adrelid join pg_namespace n on n.oid = c.relnamespace cross join used
 where {_USER} and c.relpersistence <> 't' and x.adbin::text ~ used.xml
order by 1
"""
