//! Sets of words, hashed by the compiler.

/// Words of at most 16 ASCII letters as a number, to be matched on; anything longer is 0. Letters are folded.
pub(crate) const fn pack(word: &[u8]) -> u128 {
    if word.len() > 16 {
        return 0;
    }
    let mut packed = 0;
    let mut i = 0;
    while i < word.len() {
        packed = packed << 8 | word[i].to_ascii_lowercase() as u128;
        i += 1;
    }
    packed
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
        let mut hash = HASH;
        let mut at = 0;
        while at < text.len() {
            if text[at] > b' ' {
                hash = step(hash, text[at]);
            } else {
                let mut slot = hash as usize % SLOTS;
                while slots[slot] != 0 {
                    slot = (slot + 1) % SLOTS;
                }
                slots[slot] = (at as u32) << 8 | (at - start) as u32;
                (start, hash) = (at + 1, HASH);
            }
            at += 1;
        }
        Self { text, slots }
    }

    /// Whether the word is in the set.
    pub(crate) fn contains(&self, word: &[u8]) -> bool {
        let hash = word.iter().fold(HASH, |hash, b| step(hash, b.to_ascii_lowercase()));
        let mut slot = hash as usize % SLOTS;
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

const HASH: u32 = 0x811c_9dc5;

const fn step(hash: u32, byte: u8) -> u32 {
    (hash ^ byte as u32).wrapping_mul(0x0100_0193)
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

/// Those of them that do more than read, or that a standby would answer with an error.
pub(crate) static WRITING: Words<256> = Words::new(include_bytes!("../writing.txt"));
