//! Cipher suites, protocol versions and curves: what rustls speaks, by OpenSSL's names.

use rustls::crypto::SupportedKxGroup;
use rustls::crypto::ring::{cipher_suite as ring, kx_group};
use rustls::{CipherSuite, SupportedCipherSuite, SupportedProtocolVersion};

use super::Findings;

/// A cipher suite. One of TLS 1.3 is of no other version, so that the suite says all that is shown of a connection.
#[derive(Debug)]
pub(crate) struct Suite {
    /// `VERSION/SUITE` in OpenSSL's names, as the log and the console show it.
    pub(crate) label: &'static str,
    suite: SupportedCipherSuite,
    /// Words of OpenSSL's cipher lists that select it.
    words: &'static [&'static str],
}

/// In the order of preference.
static SUITES: [Suite; 9] = [
    Suite { label: "TLSv1.3/TLS_AES_256_GCM_SHA384", suite: ring::TLS13_AES_256_GCM_SHA384, words: &[] },
    Suite { label: "TLSv1.3/TLS_AES_128_GCM_SHA256", suite: ring::TLS13_AES_128_GCM_SHA256, words: &[] },
    Suite {
        label: "TLSv1.3/TLS_CHACHA20_POLY1305_SHA256",
        suite: ring::TLS13_CHACHA20_POLY1305_SHA256,
        words: &[],
    },
    Suite {
        label: "TLSv1.2/ECDHE-ECDSA-AES256-GCM-SHA384",
        suite: ring::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
        words: &["ECDSA", "aECDSA", "AES", "AES256", "AESGCM"],
    },
    Suite {
        label: "TLSv1.2/ECDHE-RSA-AES256-GCM-SHA384",
        suite: ring::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
        words: &["aRSA", "AES", "AES256", "AESGCM"],
    },
    Suite {
        label: "TLSv1.2/ECDHE-ECDSA-AES128-GCM-SHA256",
        suite: ring::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
        words: &["ECDSA", "aECDSA", "AES", "AES128", "AESGCM"],
    },
    Suite {
        label: "TLSv1.2/ECDHE-RSA-AES128-GCM-SHA256",
        suite: ring::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
        words: &["aRSA", "AES", "AES128", "AESGCM"],
    },
    Suite {
        label: "TLSv1.2/ECDHE-ECDSA-CHACHA20-POLY1305",
        suite: ring::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
        words: &["ECDSA", "aECDSA", "CHACHA20"],
    },
    Suite {
        label: "TLSv1.2/ECDHE-RSA-CHACHA20-POLY1305",
        suite: ring::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
        words: &["aRSA", "CHACHA20"],
    },
];

/// Words that select all suites of TLS 1.2 that rustls has, those of PgBouncer among them.
const ALL_12: &[&str] = &[
    "default", "secure", "fast", "normal", "all", "ALL", "DEFAULT", "HIGH", "ECDHE", "EECDH", "kECDHE",
    "kEECDH", "AEAD", "TLSv1.2", "FIPS",
];

/// Words of OpenSSL that select only what rustls does not have, because it is weak or hardly used.
const NONE_12: &[&str] = &[
    "aNULL",
    "eNULL",
    "NULL",
    "COMPLEMENTOFALL",
    "COMPLEMENTOFDEFAULT",
    "EXP",
    "EXPORT",
    "EXPORT40",
    "EXPORT56",
    "LOW",
    "MEDIUM",
    "DES",
    "3DES",
    "RC2",
    "RC4",
    "IDEA",
    "SEED",
    "CAMELLIA",
    "CAMELLIA128",
    "CAMELLIA256",
    "ARIA",
    "ARIA128",
    "ARIA256",
    "ARIAGCM",
    "AESCCM",
    "AESCCM8",
    "CBC",
    "MD5",
    "SHA",
    "SHA1",
    "SHA256",
    "SHA384",
    "RSA",
    "kRSA",
    "DH",
    "DHE",
    "EDH",
    "kDHE",
    "kEDH",
    "kDH",
    "kDHr",
    "kDHd",
    "aDH",
    "ADH",
    "AECDH",
    "kECDH",
    "kECDHr",
    "kECDHe",
    "aECDH",
    "ECDH",
    "DSS",
    "aDSS",
    "PSK",
    "aPSK",
    "kPSK",
    "kECDHEPSK",
    "kDHEPSK",
    "kRSAPSK",
    "SRP",
    "kSRP",
    "aSRP",
    "GOST",
    "kGOST",
    "aGOST",
    "SSLv2",
    "SSLv3",
    "TLSv1",
    "TLSv1.0",
    "TLSv1.1",
];

/// Suites of TLS 1.3 that OpenSSL knows and rustls leaves out.
const MISSING_13: &[&str] = &["TLS_AES_128_CCM_SHA256", "TLS_AES_128_CCM_8_SHA256"];

impl Suite {
    /// The one that a connection has agreed on.
    pub(crate) fn of(suite: CipherSuite) -> Option<&'static Suite> {
        SUITES.iter().find(|known| known.suite.suite() == suite)
    }

    /// Its name in OpenSSL.
    fn name(&self) -> &'static str {
        self.label.split_once('/').map_or(self.label, |(_, name)| name)
    }

    fn is_13(&self) -> bool {
        self.suite.tls13().is_some()
    }

    /// Whether one word of a cipher list selects it.
    fn is_called(&self, word: &str) -> bool {
        self.name() == word || ALL_12.contains(&word) || self.words.contains(&word)
    }
}

/// What a side may speak.
#[derive(Debug, Clone)]
pub(super) struct Spoken {
    pub(super) versions: Vec<&'static SupportedProtocolVersion>,
    pub(super) suites: Vec<SupportedCipherSuite>,
    pub(super) groups: Vec<&'static dyn SupportedKxGroup>,
}

/// The settings that decide what is spoken, as written.
#[derive(Debug, Clone, Copy)]
pub(super) struct Words<'a> {
    pub(super) protocols: &'a str,
    pub(super) ciphers: &'a str,
    pub(super) tls13_ciphers: Option<&'a str>,
    /// Only clients have it.
    pub(super) curve: Option<&'a str>,
}

impl Words<'_> {
    /// Suites without a version that has them, and versions without suites, are left out. `None`: nothing is left, which
    /// is noted.
    pub(super) fn resolve(&self, findings: &mut Findings) -> Option<Spoken> {
        let (v12, v13) = protocols(self.protocols, findings)?;
        let list13 = self.tls13_ciphers.unwrap_or_default();
        let tls13 = tls13(list13, findings)?;
        let tls12 = tls12(self.ciphers, findings);
        let groups = curves(self.curve.unwrap_or("auto"), findings)?;
        let mut spoken = Spoken { versions: Vec::new(), suites: Vec::new(), groups };
        if v13 && !tls13.is_empty() {
            spoken.versions.push(&rustls::version::TLS13);
            spoken.suites.extend(tls13.iter().map(|suite| suite.suite));
        }
        if v12 && !tls12.is_empty() {
            spoken.versions.push(&rustls::version::TLS12);
            spoken.suites.extend(tls12.iter().map(|suite| suite.suite));
        }
        if spoken.versions.is_empty() {
            let setting = if v13 { "tls13_ciphers" } else { "ciphers" };
            let known: Vec<&str> = SUITES.iter().filter(|s| s.is_13() == v13).map(Suite::name).collect();
            findings.fault(
                setting,
                "no cipher suite is left for the TLS versions allowed",
                format!("known are {}", known.join(", ")),
            );
            return None;
        }
        Some(spoken)
    }
}

/// Whether TLS 1.2 and 1.3 are allowed, by a list that may also take back (`all:!tlsv1.2`).
fn protocols(list: &str, findings: &mut Findings) -> Option<(bool, bool)> {
    const OLD: &str = "TLS 1.0 and 1.1 are not spoken, whoever knows nothing newer is refused";
    let (mut v12, mut v13, mut old) = (false, false, false);
    for word in list.split([',', ':', ' ']).map(str::trim).filter(|word| !word.is_empty()) {
        let (allow, name) = word.strip_prefix('!').map_or((true, word), |name| (false, name));
        match name.to_ascii_lowercase().as_str() {
            "tlsv1.3" => v13 = allow,
            "tlsv1.2" => v12 = allow,
            "tlsv1.0" | "tlsv1.1" => old |= allow,
            "all" | "legacy" | "tlsv1" => (v12, v13, old) = (allow, allow, old | allow),
            "secure" | "default" => (v12, v13) = (allow, allow),
            _ => {
                let advice = "known are tlsv1.2, tlsv1.3, secure and all";
                findings.fault("protocols", format!("unknown TLS version \"{word}\""), advice);
                return None;
            }
        }
    }
    if !v12 && !v13 {
        findings.fault("protocols", format!("no TLS version is left of \"{list}\""), OLD);
        return None;
    }
    if old {
        findings.warn("protocols", format!("\"{list}\" includes versions that are gone"), OLD);
    }
    Some((v12, v13))
}

/// The suites of TLS 1.3 in a list; all of them if it is empty.
fn tls13(list: &str, findings: &mut Findings) -> Option<Vec<&'static Suite>> {
    let words: Vec<&str> =
        list.split([':', ',', ' ']).map(str::trim).filter(|word| !word.is_empty()).collect();
    if words.is_empty() {
        return Some(SUITES.iter().filter(|suite| suite.is_13()).collect());
    }
    let mut suites = Vec::new();
    for word in words {
        match SUITES.iter().find(|suite| suite.is_13() && suite.name() == word) {
            Some(suite) => suites.push(suite),
            None if MISSING_13.contains(&word) => {
                findings.warn("tls13_ciphers", format!("{word} is not spoken"), "it is left out");
            }
            None => {
                let known: Vec<&str> = SUITES.iter().filter(|s| s.is_13()).map(Suite::name).collect();
                let advice = format!("known are {}", known.join(", "));
                findings.fault(
                    "tls13_ciphers",
                    format!("unknown cipher suite \"{word}\" of TLS 1.3"),
                    advice,
                );
                return None;
            }
        }
    }
    Some(suites)
}

/// The suites of TLS 1.2 that a cipher list of OpenSSL selects, in its order. Words that are not known are noted and
/// select nothing, as with OpenSSL.
fn tls12(list: &str, findings: &mut Findings) -> Vec<&'static Suite> {
    let mut suites: Vec<&'static Suite> = Vec::new();
    let mut killed: Vec<&'static str> = Vec::new();
    for element in list.split([':', ',', ' ']).map(str::trim).filter(|element| !element.is_empty()) {
        if element.starts_with('@') {
            continue; // of strength and security levels: rustls has only strong suites, in order
        }
        let (operator, words) = match element.chars().next() {
            Some(sign @ ('!' | '-' | '+')) => (Some(sign), &element[1..]),
            _ => (None, element),
        };
        let selected: Vec<&'static Suite> = SUITES
            .iter()
            .filter(|suite| !suite.is_13() && words.split('+').all(|word| suite.is_called(word)))
            .collect();
        match operator {
            Some('!') => {
                killed.extend(selected.iter().map(|suite| suite.label));
                suites.retain(|suite| !killed.contains(&suite.label));
            }
            Some('-') => suites.retain(|suite| !selected.iter().any(|s| s.label == suite.label)),
            Some(_) => {
                let (moved, kept) =
                    suites.iter().partition(|suite| selected.iter().any(|s| s.label == suite.label));
                suites = kept;
                let moved: Vec<&'static Suite> = moved;
                suites.extend(moved);
            }
            None => {
                let is_new = |suite: &&&'static Suite| {
                    !killed.contains(&suite.label) && !suites.iter().any(|s| s.label == suite.label)
                };
                let added: Vec<&'static Suite> = selected.iter().filter(is_new).copied().collect();
                suites.extend(added);
                note_unknown(words, findings);
            }
        }
    }
    suites
}

/// Says which words of one element select nothing here.
fn note_unknown(words: &str, findings: &mut Findings) {
    for word in words.split('+') {
        let called = SUITES.iter().any(|suite| !suite.is_13() && suite.is_called(word));
        if called {
            continue;
        }
        let why = match NONE_12.contains(&word) {
            true => "rustls has none of these suites",
            false => "not a cipher suite of rustls, nor a word that selects any",
        };
        findings.warn("ciphers", format!("\"{word}\" selects nothing"), why);
    }
}

/// The groups for the exchange of keys, by OpenSSL's names of curves.
fn curves(list: &str, findings: &mut Findings) -> Option<Vec<&'static dyn SupportedKxGroup>> {
    let mut groups: Vec<&'static dyn SupportedKxGroup> = Vec::new();
    for word in list.split([':', ',', ' ']).map(str::trim).filter(|word| !word.is_empty()) {
        match word.to_ascii_lowercase().as_str() {
            "auto" => groups.extend([kx_group::X25519, kx_group::SECP256R1, kx_group::SECP384R1]),
            "x25519" => groups.push(kx_group::X25519),
            "prime256v1" | "secp256r1" | "p-256" => groups.push(kx_group::SECP256R1),
            "secp384r1" | "p-384" => groups.push(kx_group::SECP384R1),
            "none" => {
                let advice = "all suites need one; auto is meant";
                findings.warn("ecdhcurve", "keys are exchanged by elliptic curves only", advice);
                return curves("auto", findings);
            }
            _ => {
                let advice = "known are auto, X25519, prime256v1 and secp384r1";
                findings.fault("ecdhcurve", format!("unknown curve \"{word}\""), advice);
                return None;
            }
        }
    }
    if groups.is_empty() { curves("auto", findings) } else { Some(groups) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolved(
        protocols: &str,
        ciphers: &str,
        tls13: Option<&str>,
    ) -> (Option<Vec<&'static str>>, Findings) {
        let mut findings = Findings::default();
        let words = Words { protocols, ciphers, tls13_ciphers: tls13, curve: None };
        let spoken = words.resolve(&mut findings);
        let names = spoken.map(|spoken| {
            spoken.suites.iter().map(|suite| Suite::of(suite.suite()).unwrap().name()).collect::<Vec<_>>()
        });
        (names, findings)
    }

    fn tls12_of(ciphers: &str) -> Vec<&'static str> {
        resolved("tlsv1.2", ciphers, None).0.unwrap_or_default()
    }

    #[test]
    fn the_words_of_pgbouncer_select_all() {
        for word in ["default", "secure", "fast", "normal", "all"] {
            assert_eq!(tls12_of(word).len(), 6, "{word}");
        }
        assert_eq!(resolved("secure", "default", None).0.unwrap().len(), 9);
    }

    #[test]
    fn cipher_lists_are_read_as_openssl_reads_them() {
        assert_eq!(tls12_of("HIGH:!aNULL:!MD5").len(), 6);
        assert_eq!(
            tls12_of("ECDHE+AESGCM:!aRSA"),
            ["ECDHE-ECDSA-AES256-GCM-SHA384", "ECDHE-ECDSA-AES128-GCM-SHA256"]
        );
        assert_eq!(
            tls12_of("ECDHE-RSA-AES128-GCM-SHA256:ECDHE-RSA-AES256-GCM-SHA384"),
            ["ECDHE-RSA-AES128-GCM-SHA256", "ECDHE-RSA-AES256-GCM-SHA384"]
        );
        assert_eq!(tls12_of("HIGH:-CHACHA20:-ECDSA:+AES256")[0], "ECDHE-RSA-AES128-GCM-SHA256");
        assert_eq!(tls12_of("!AES:ALL").len(), 2);
    }

    #[test]
    fn what_selects_nothing_is_told_and_nothing_at_all_is_a_fault() {
        let (names, findings) = resolved("secure", "DHE-RSA-AES256-SHA:ECDHE-RSA-AES128-GCM-SHA256", None);
        assert_eq!(names.unwrap().len(), 4);
        assert_eq!(findings.warnings.len(), 1);
        let (names, findings) = resolved("tlsv1.2", "RC4-SHA", None);
        assert!(names.is_none());
        assert!(findings.faults[0].message.contains("no cipher suite is left"), "{findings:?}");
    }

    #[test]
    fn suites_of_tls_1_3_are_given_by_name() {
        let one = Some("TLS_AES_128_GCM_SHA256");
        assert_eq!(resolved("tlsv1.3", "default", one).0.unwrap(), ["TLS_AES_128_GCM_SHA256"]);
        let (names, findings) = resolved("secure", "default", Some("TLS_BOGUS"));
        assert!(names.is_none() && findings.faults[0].message.contains("TLS_BOGUS"));
    }

    #[test]
    fn old_versions_are_told_of_and_alone_are_a_fault() {
        let (names, findings) = resolved("tlsv1.0,tlsv1.1", "default", None);
        assert!(names.is_none() && findings.faults.len() == 1);
        let (names, findings) = resolved("all", "default", None);
        assert!(names.is_some() && findings.warnings.len() == 1);
        assert_eq!(resolved("all:!tlsv1.3", "default", None).0.unwrap().len(), 6);
        assert!(resolved("sslv3", "default", None).0.is_none());
    }

    #[test]
    fn every_suite_of_the_provider_has_a_name() {
        for suite in rustls::crypto::ring::ALL_CIPHER_SUITES {
            assert!(Suite::of(suite.suite()).is_some(), "{suite:?}");
        }
    }
}
