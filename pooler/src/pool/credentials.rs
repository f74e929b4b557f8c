//! What a pool knows of its user besides the configuration, for its logins to servers.

use protocol::auth::scram::{Keys, Verifier};

use super::{Pool, lock};
use crate::auth_query::Learnt;
use crate::config::Secret;

#[derive(Default)]
pub(super) struct Credentials {
    /// Keys that a client's SCRAM login disclosed: they open servers that store the same verifier.
    keys: Option<Keys>,
    /// The password that LDAP or PAM has found right at a client's login: it opens servers that ask the same.
    proven: Option<Secret>,
    /// What `auth_query` has told.
    learnt: Option<Learnt>,
}

impl Pool {
    /// Something is known that was not when a login to the server was refused: the next need not wait for that.
    fn may_try_again(&self) {
        self.forget_failure();
        self.sites().iter().for_each(|pool| pool.forget_failure());
    }

    /// Keys that a client has disclosed, whatever verifier they are for.
    pub(crate) fn passed_through(&self) -> Option<Keys> {
        lock(&self.credentials).keys.clone()
    }

    /// Those keys, for a server that stores this verifier. A forced user has none: clients have shown to know their own
    /// passwords, not this user's. Keys of a verifier that was replaced are dropped.
    pub(crate) fn keys_for(&self, verifier: &Verifier) -> Option<Keys> {
        let mut credentials = lock(&self.credentials);
        credentials.keys.take_if(|keys| self.is_forced() || !keys.fit(verifier));
        credentials.keys.clone()
    }

    /// A client has disclosed keys.
    pub(crate) fn pass_through(&self, keys: Keys) {
        let before = lock(&self.credentials).keys.replace(keys.clone());
        if before != Some(keys) {
            self.may_try_again();
        }
    }

    /// The secret of its user is another one: keys of the old one go, and the next connection need not wait because that
    /// was refused.
    pub(crate) fn secret_changed(&self) {
        lock(&self.credentials).keys = None;
        self.may_try_again();
    }

    /// The password of its user that another program has found right.
    pub(crate) fn proven(&self) -> Option<Secret> {
        lock(&self.credentials).proven.clone()
    }

    /// A client has proven to know this password; `None`: nobody asks that program any more.
    pub(crate) fn prove(&self, password: Option<Secret>) {
        let before = std::mem::replace(&mut lock(&self.credentials).proven, password.clone());
        if before != password {
            self.may_try_again();
        }
    }

    pub(crate) fn learnt(&self) -> Option<Learnt> {
        lock(&self.credentials).learnt.clone()
    }

    /// Its user has this secret now, or none that is known. True: it had another one before.
    pub(crate) fn learn(&self, new: Option<Learnt>) -> bool {
        let secret = |learnt: &Option<Learnt>| learnt.as_ref().map(|learnt| learnt.secret.clone());
        let told = secret(&new);
        let before = std::mem::replace(&mut lock(&self.credentials).learnt, new);
        let is_news = secret(&before) != told;
        if is_news {
            self.may_try_again();
        }
        is_news
    }
}
