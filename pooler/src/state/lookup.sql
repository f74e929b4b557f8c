-- What the functions of a database may do unseen. Runs in the client's session, with pg_catalog alone in the search path.
-- No backslashes: what they mean is a setting of the client's.

-- c: settings with a dot in their name that functions name, which no view shows, and what the session has of those.
SELECT 'c', name, current_setting(name, true)
FROM (
    SELECT DISTINCT lower(coalesce(m[1], m[2]) COLLATE "C")
    FROM pg_proc, regexp_matches(prosrc COLLATE "C",
        '(?:set_config|current_setting)[[:space:]]*[(][[:space:]]*''([a-z_][a-z0-9_$]*(?:[.][a-z_][a-z0-9_$]*)+)'''
        '|set[[:space:]]+(?:local[[:space:]]+|session[[:space:]]+)?'
        '([a-z_][a-z0-9_$]*(?:[.][a-z_][a-z0-9_$]*)+)[[:space:]]*(?:=|to[[:space:]])', 'gi') AS m
    WHERE prolang <> 12 AND prolang <> 13
    LIMIT 256
) AS named (name)

UNION ALL

-- h: something other than a text calls functions that may change the session, or name one that may, by what their bodies
-- say: 0 triggers, defaults and constraints of tables, 1 views, policies, operators, domains and so on. Functions in C pass
-- for harmless.
(
    WITH own AS MATERIALIZED (
        SELECT oid, proname, lower(prosrc COLLATE "C") AS body
        FROM pg_proc
        WHERE oid >= 16384 AND prolang <> 12 AND prolang <> 13
    ),
    bad AS MATERIALIZED (
        SELECT oid, lower(proname::text COLLATE "C") AS name
        FROM own
        WHERE regexp_replace(body, 'set_config[[:space:]]*[(][^;()]*,[[:space:]]*true[[:space:]]*[)]', '', 'g') ~ (
            'set_config|pg_settings|pg_(try_)?advisory_lock|pg_temp'
            '|(create|into)[[:space:]]+((local|global)[[:space:]]+)?temp'
            '|(^|;|''|begin|then|else|loop|>>|[*]/|--[^' || chr(10) || ']*' || chr(10) || ')[[:space:]]*'
            '(set[[:space:]](?![[:space:]]*(local[[:space:]]|constraints|transaction))'
            '|(reset|listen|unlisten|prepare|load|discard)[[:space:]])'
        )
    )
    SELECT DISTINCT 'h',
        CASE
            WHEN classid IN (2620, 2604) THEN '0'
            WHEN classid = 2606 AND EXISTS (SELECT FROM pg_constraint AS c WHERE c.oid = objid AND contypid = 0) THEN '0'
            ELSE '1'
        END, ''
    FROM pg_depend JOIN own ON own.oid = refobjid
    WHERE refclassid = 1255 AND classid <> 1255
        AND EXISTS (SELECT FROM bad WHERE bad.oid = own.oid OR strpos(body, bad.name) > 0)
)

UNION ALL

-- d: the role with which sessions of a user (or of all) begin, those that count more first.
(
    SELECT 'd', CASE WHEN setrole = 0 THEN '' ELSE pg_get_userbyid(setrole)::text END, substr(entry, 6)
    FROM pg_db_role_setting, unnest(setconfig) AS entry
    WHERE starts_with(entry, 'role=')
        AND setdatabase IN (0, (SELECT oid FROM pg_database WHERE datname = current_database()))
    ORDER BY setrole = 0, setdatabase = 0
)
