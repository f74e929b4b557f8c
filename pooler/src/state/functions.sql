-- The functions of a database, with their bodies. Runs as lookup.sql does.

-- m: which database and since which transaction, how many functions there are, whether all of them follow.
-- f: those that are not known yet: number, kind, name; body. In hexadecimal, because the client's encoding may not have all
-- characters. Kinds: s SQL, p PL/pgSQL, n harmless by its declaration, u unknown; B behind it: PostgreSQL has one of the name.
WITH place AS MATERIALIZED (
    SELECT concat((extract(epoch FROM pg_postmaster_start_time()) * 1000000)::bigint, '.', oid) AS place
    FROM pg_database
    WHERE datname = current_database()
),
own AS MATERIALIZED (
    SELECT p.*, p.xmin AS changed, lanname
    FROM pg_proc AS p JOIN pg_language AS l ON l.oid = prolang
    WHERE p.oid >= 16384
),
new AS MATERIALIZED (
    SELECT oid, proname, prokind = 'a' AS combines,
        CASE
            WHEN prokind = 'a' OR lanname = 'sql' AND prosrc <> '' THEN 's'
            WHEN lanname = 'plpgsql' THEN 'p'
            WHEN lanname = 'c' AND (
                provolatile = 'i'
                -- One that takes a text may run it, as crosstab does.
                OR provolatile = 's' AND NOT proargtypes::oid[] && '{25,1042,1043,2275,2276,2283,5077}'
                OR provolatile = 's' AND probin IN ('$libdir/pg_trgm', '$libdir/unaccent')
                OR probin IN ('$libdir/uuid-ossp', '$libdir/pgcrypto')
            ) THEN 'n'
            ELSE 'u'
        END AS kind,
        CASE WHEN prokind = 'a' OR lanname IN ('sql', 'plpgsql') THEN prosrc ELSE '' END AS body,
        chr(10) || '; select ' || pg_get_expr(proargdefaults, 0) AS defaults
    FROM own
    WHERE (SELECT place FROM place) <> '$place' OR age(changed) <= age('$since'::xid)
),
size AS (SELECT coalesce(sum(octet_length(concat(body, defaults)) + 100), 0) AS size FROM new)
SELECT 'm', concat(place, ' ', txid_snapshot_xmin(txid_current_snapshot()) % 4294967296),
    concat((SELECT count(*) FROM own), ' ', place <> '$place')
FROM place
WHERE (SELECT size FROM size) < 6291456
UNION ALL
SELECT 'f',
    concat(oid, ' ', kind,
        CASE WHEN EXISTS (SELECT FROM pg_proc AS p WHERE p.proname = new.proname AND p.oid < 16384) THEN 'B' END,
        ' ', encode(convert_to(proname::text, getdatabaseencoding()), 'hex')),
    encode(convert_to(concat(
        CASE WHEN combines THEN (
            SELECT 'select ' || concat_ws('(), ', aggtransfn, aggfinalfn, aggcombinefn, aggserialfn, aggdeserialfn,
                aggmtransfn, aggminvtransfn, aggmfinalfn, '')
            FROM pg_aggregate WHERE aggfnoid = new.oid
        ) ELSE body END, defaults), getdatabaseencoding()), 'hex')
FROM new
WHERE (SELECT size FROM size) < 6291456
