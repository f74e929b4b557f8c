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
pg_get_loaded_modules pg_get_sequence_data pg_numa_available pg_stat_get_backend_io pg_stat_get_backend_wal uuidv4 uuidv7
json_agg_strict jsonb_agg_strict json_object_agg_strict json_object_agg_unique json_object_agg_unique_strict jsonb_object_agg_strict
jsonb_object_agg_unique jsonb_object_agg_unique_strict jsonb_populate_record_valid pg_get_wait_events"

harmless="SELECT proname FROM pg_proc
 WHERE pronamespace IN ('pg_catalog'::regnamespace, 'information_schema'::regnamespace) AND prokind IN ('f', 'a', 'w')
   AND prorettype NOT IN ('trigger'::regtype, 'event_trigger'::regtype, 'internal'::regtype, 'cstring'::regtype)
   AND NOT ('internal'::regtype = ANY (proargtypes) OR 'cstring'::regtype = ANY (proargtypes))
   AND prorettype::regtype::text NOT LIKE '%handler'
   AND proname !~ '$(echo "$left_out" | tr -d '\n')'"

# Volatile, and yet only a read (or a wait) that any host answers alike.
reads='^(random|random_normal|clock_timestamp|timeofday|gen_random_uuid|uuidv4|uuidv7|current_query|pg_sleep.*|pg_get_multixact_members
|pg_.*_size|pg_partition_.*|pg_xact_commit_.*|lo_get|pg_database_collation_.*|pg_collation_.*|pg_sequence_last_value)$'

# Not volatile for the catalog, and yet for the primary only: what assigns a transaction id or asks for the place in the
# WAL, which a standby refuses; what a host says of itself and its sessions; what a standby that lags would have wrong.
primary='^(txid_current|pg_current_xact_id|pg_walfile_name|pg_walfile_name_offset|pg_stat_get_.*|pg_xact_status|txid_status
|pg_(is_)?in_recovery|inet_server_(addr|port)|pg_postmaster_start_time|pg_conf_load_time|pg_show_all_settings|pg_prepared_xact
|pg_prepared_statement|pg_cursor|pg_get_replication_slots|pg_lock_status|pg_blocking_pids|pg_safe_snapshot_.*|pg_get_wal_.*
|pg_available_wal_summaries|pg_wal_summary_contents|pg_get_loaded_modules|pg_get_aios)$'

all() {
    psql -XAtqc "$harmless"
    printf '%s\n' $added
}
writing() {
    psql -XAtqc "$harmless AND (proname ~ '$(echo "$primary" | tr -d '\n')'
        OR provolatile = 'v' AND proname !~ '$(echo "$reads" | tr -d '\n')')"
    # Of the additions, which an older server does not have.
    printf '%s\n' $added | grep -E '^(pg_stat_get_|pg_get_wal_|pg_get_loaded_modules|pg_available_wal|pg_wal_summary)'
}

if [ "${1-}" = --check ]; then
    all | LC_ALL=C sort -u | diff functions.txt - && writing | LC_ALL=C sort -u | diff writing.txt -
else
    all | LC_ALL=C sort -u >functions.txt
    writing | LC_ALL=C sort -u >writing.txt
fi
