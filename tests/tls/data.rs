//! Much data, slow readers, sudden ends: TLS holds bytes of its own.
