#!/bin/sh
# Writes functions.txt and writing.txt from the catalog of a PostgreSQL server 15 (PGHOST, PGPORT, ... say which), or
# with --check only compares them with it. On 16 to 18 --check shows what is new there: to be judged by hand, and put
# in the list of additions below if harmless.
set -eu
cd "$(dirname "$0")"

# Left out: what has an effect of its own in src/rules.rs; what runs SQL that it is given (query_to_xml, ts_stat,
# ts_rewrite) or code of an output plugin; what changes the session (origins, backups, temporary slots), the catalog
# or the server's settings; index maintenance, which runs users' functions; what nobody calls by name.
left_out='^(set_config|nextval|setval|currval|lastval|setseed|pg_notify|pg_listening_channels|pg_(try_)?advisory_(un)?lock.*|.*_to_xml.*
|ts_stat|ts_rewrite|pg_logical_slot_.*|pg_(create|copy|drop)_.*_slot|pg_drop_replication_slot|pg_replication_slot_.*
|pg_replication_origin_.*|pg_backup_.*|pg_import_.*|pg_extension_config_dump|pg_reload_conf|pg_promote|binary_upgrade_.*
|brin_(de)?summarize_.*|gin_clean_.*|pg_nextoid|pg_stop_making_.*|pg_event_trigger_.*|.*_validator)$'

# Harmless, and new in 16, 17 and 18.
added="any_value array_sample array_shuffle date_add date_subtract erf erfc pg_input_error_info pg_input_is_valid
pg_split_walfile_name random_normal pg_stat_get_io has_largeobject_privilege icu_unicode_version
pg_available_wal_summaries pg_basetype pg_column_toast_chunk_id pg_get_wal_summarizer_state pg_stat_get_checkpointer_num_timed
pg_wal_summary_contents to_bin to_oct to_regtypemod unicode_assigned unicode_version uuid_extract_timestamp
uuid_extract_version xmltext array_reverse array_sort casefold crc32 crc32c gamma lgamma pg_get_acl
pg_get_loaded_modules pg_get_sequence_data pg_numa_available pg_stat_get_backend_io pg_stat_get_backend_wal uuidv4 uuidv7"

harmless="SELECT proname FROM pg_proc
 WHERE pronamespace IN ('pg_catalog'::regnamespace, 'information_schema'::regnamespace) AND prokind IN ('f', 'a', 'w')
   AND prorettype NOT IN ('trigger'::regtype, 'event_trigger'::regtype, 'internal'::regtype, 'cstring'::regtype)
   AND NOT ('internal'::regtype = ANY (proargtypes) OR 'cstring'::regtype = ANY (proargtypes))
   AND prorettype::regtype::text NOT LIKE '%handler'
   AND proname !~ '$(echo "$left_out" | tr -d '\n')'"

# Volatile, and yet only a read (or a wait).
reads='^(random|clock_timestamp|timeofday|gen_random_uuid|current_query|pg_sleep.*|pg_blocking_pids|pg_safe_snapshot_.*
|pg_.*_size|pg_get_multixact_members|pg_partition_.*|pg_xact_.*|txid_status|lo_get|pg_stat_get_xact_.*
|pg_lock_status|pg_database_collation_.*|pg_collation_.*|pg_sequence_last_value)$'

all() {
    psql -XAtqc "$harmless"
    printf '%s\n' $added
}
# What the catalog calls stable and a standby still refuses: whatever assigns a transaction id.
writing() {
    psql -XAtqc "$harmless AND (provolatile = 'v' AND proname !~ '$(echo "$reads" | tr -d '\n')'
        OR proname IN ('txid_current', 'pg_current_xact_id'))"
}

if [ "${1-}" = --check ]; then
    all | LC_ALL=C sort -u | diff functions.txt - && writing | LC_ALL=C sort -u | diff writing.txt -
else
    all | LC_ALL=C sort -u >functions.txt
    writing | LC_ALL=C sort -u >writing.txt
fi
