//! Sets of words, hashed by the compiler.

/// A word of at most 16 bytes as a number, to be matched on; 0 for a longer one. Letters are folded by the one bit that
/// makes them small; no other two bytes of identifiers become the same by it, save some beyond ASCII.
pub(crate) const fn pack(word: &[u8]) -> u128 {
    if word.len() > 16 { 0 } else { prefix(word) }
}

/// The same of the first 16 bytes.
const fn prefix(word: &[u8]) -> u128 {
    let mut bytes = [0; 16];
    if word.len() < 16 {
        bytes.split_at_mut(16 - word.len()).1.copy_from_slice(word);
    } else {
        bytes.copy_from_slice(word.split_at(16).0);
    }
    u128::from_be_bytes(bytes) | 0x2020_2020_2020_2020_2020_2020_2020_2020
}

/// A set of words, looked up without regard to the case of ASCII letters. `SLOTS` is a power of two.
pub(crate) struct Words<const SLOTS: usize> {
    text: &'static [u8],
    /// Where a word ends in `text` (upper 24 bits) and its length; 0 is free.
    slots: [u32; SLOTS],
}

impl<const SLOTS: usize> Words<SLOTS> {
    /// The words of a text, separated by single blanks or newlines, in lower case.
    pub(crate) const fn new(text: &'static [u8]) -> Self {
        let mut slots = [0; SLOTS];
        let mut start = 0;
        let mut at = 0;
        while at < text.len() {
            if text[at] <= b' ' {
                let mut slot = hash(text.split_at(at).0.split_at(start).1) % SLOTS;
                while slots[slot] != 0 {
                    slot = (slot + 1) % SLOTS;
                }
                slots[slot] = (at as u32) << 8 | (at - start) as u32;
                start = at + 1;
            }
            at += 1;
        }
        Self { text, slots }
    }

    /// Whether the word is in the set.
    pub(crate) fn contains(&self, word: &[u8]) -> bool {
        let mut slot = hash(word) % SLOTS;
        loop {
            let entry = self.slots[slot];
            if entry == 0 {
                return false;
            }
            let (end, len) = ((entry >> 8) as usize, (entry & 0xff) as usize);
            if len == word.len() && self.text[end - len..end].eq_ignore_ascii_case(word) {
                return true;
            }
            slot = (slot + 1) % SLOTS;
        }
    }
}

/// Of the length and the first 16 bytes: enough to tell most words apart, and no loop over them.
const fn hash(word: &[u8]) -> usize {
    let packed = prefix(word);
    let mixed = (packed as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (packed >> 64) as u64;
    (mixed.wrapping_add(word.len() as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as usize
}

/// Keywords behind which a parenthesis is no call: those that can't be the name of a function (reserved ones, and
/// "cannot be function or type" in PostgreSQL's list of keywords), in versions 13 to 18.
pub(crate) static KEYWORDS: Words<512> = Words::new(
    b"all analyse analyze and any array as asc asymmetric between bigint bit boolean both case cast char character \
check coalesce collate column constraint create current_catalog current_date current_role current_time \
current_timestamp current_user dec decimal default deferrable desc distinct do else end except exists extract \
false fetch float for foreign from grant greatest group grouping having in initially inout int integer intersect \
interval into json json_array json_arrayagg json_exists json_object json_objectagg json_query json_scalar \
json_serialize json_table json_value lateral leading least limit localtime localtimestamp merge_action national \
nchar none normalize not null nullif numeric offset on only or order out overlay placing position precision \
primary real references returning row select session_user setof smallint some substring symmetric system_user \
table then time timestamp to trailing treat trim true union unique user using values varchar variadic when where \
window with xmlattributes xmlconcat xmlelement xmlexists xmlforest xmlnamespaces xmlparse xmlpi xmlroot \
xmlserialize xmltable ",
);

/// Functions of `pg_catalog` and `information_schema` that leave nothing behind in the session and run no SQL that
/// they are given: see `functions.sh`, which writes and checks the list.
pub(crate) static HARMLESS: Words<8192> = Words::new(include_bytes!("../functions.txt"));

/// Those of them that do more than read, or that a standby would answer with an error or in another way.
pub(crate) static WRITING: Words<512> = Words::new(include_bytes!("../writing.txt"));

/// Relations that every host fills for itself, beside all that begin with `pg_stat_` or `pg_statio_`.
pub(crate) static HOSTS_OWN: Words<64> = Words::new(
    b"pg_aios pg_backend_memory_contexts pg_buffercache pg_cursors pg_file_settings pg_hba_file_rules \
pg_ident_file_mappings pg_locks pg_prepared_statements pg_replication_origin_status pg_replication_slots pg_settings \
pg_shmem_allocations pg_shmem_allocations_numa ",
);
