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
    /// Changes what is known. If that is news, a login to the server that was refused without it may be tried again at once.
    fn know<T: PartialEq>(&self, part: impl FnOnce(&mut Credentials) -> &mut T, new: T) -> bool {
        let mut credentials = lock(&self.credentials);
        let known = part(&mut credentials);
        let is_news = *known != new;
        *known = new;
        drop(credentials);
        if is_news {
            lock(&self.dialling).failure = None;
        }
        is_news
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
        self.know(|known| &mut known.keys, Some(keys));
    }

    /// The secret of its user is another one: keys of the old one go, and the next connection need not wait because that
    /// was refused.
    pub(crate) fn secret_changed(&self) {
        lock(&self.credentials).keys = None;
        lock(&self.dialling).failure = None;
    }

    /// The password of its user that another program has found right.
    pub(crate) fn proven(&self) -> Option<Secret> {
        lock(&self.credentials).proven.clone()
    }

    /// A client has proven to know this password; `None`: nobody asks that program any more.
    pub(crate) fn prove(&self, password: Option<Secret>) {
        self.know(|known| &mut known.proven, password);
    }

    pub(crate) fn learnt(&self) -> Option<Learnt> {
        lock(&self.credentials).learnt.clone()
    }

    /// Its user has this secret now, or none that is known. True: it had another one before.
    pub(crate) fn learn(&self, new: Option<Learnt>) -> bool {
        let secret = |learnt: &Option<Learnt>| learnt.as_ref().map(|learnt| learnt.secret.clone());
        let same = secret(&lock(&self.credentials).learnt) == secret(&new);
        if same {
            lock(&self.credentials).learnt = new; // it may have been asked for in another way
            return false;
        }
        self.know(|known| &mut known.learnt, new)
    }
}
