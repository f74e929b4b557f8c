//! Asking PAM whether a password is right. Its modules block as long as they like, so each check has a thread of its
//! own, and their number is bounded: a module that hangs delays logins of this method and nothing else.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use tokio::sync::{Semaphore, oneshot};
use zeroize::Zeroizing;

use crate::shared::Shared;

/// Checks at a time, those included whose client has left.
const AT_ONCE: usize = 8;

/// Checks that wait for their turn.
const MOST_WAITING: usize = 1024;

/// Checks that run and that wait.
pub(crate) struct Pam {
    turns: Arc<Semaphore>,
    waiting: AtomicUsize,
}

impl Default for Pam {
    fn default() -> Pam {
        Pam { turns: Arc::new(Semaphore::new(AT_ONCE)), waiting: AtomicUsize::new(0) }
    }
}

/// What PAM is asked.
#[cfg_attr(not(feature = "pam"), expect(dead_code, reason = "nobody reads it in a build that can't ask"))]
pub(crate) struct Question {
    /// As which service: the name of a file in `/etc/pam.d`.
    pub(crate) service: String,
    pub(crate) user: String,
    pub(crate) password: Zeroizing<String>,
    /// The client's address, for modules that want to know.
    pub(crate) from: String,
}

/// Counts one that waits, until it is dropped.
struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

impl Shared {
    /// # Errors
    /// The password is not right, or nobody could say; why, for the log.
    pub(crate) async fn ask_pam(&self, question: Question) -> Result<(), String> {
        let turn = {
            let before = self.pam.waiting.fetch_add(1, Relaxed);
            let _waiting = Waiting(&self.pam.waiting);
            if before >= MOST_WAITING {
                return Err("too many logins wait for PAM".to_owned());
            }
            let turn = self.pam.turns.clone().acquire_owned().await;
            turn.map_err(|_| "the pooler ends".to_owned())?
        };
        let (tell, told) = oneshot::channel();
        let work = move || {
            let _turn = turn;
            let _ = tell.send(check(question)); // the client may have left
        };
        std::thread::Builder::new().name("pam".to_owned()).spawn(work).map_err(|error| error.to_string())?;
        told.await.unwrap_or_else(|_| Err("the check was given up".to_owned()))
    }
}

#[cfg(not(feature = "pam"))]
fn check(_question: Question) -> Result<(), String> {
    Err("pam is not supported by this build".to_owned())
}

#[cfg(feature = "pam")]
use asking::check;

#[cfg(feature = "pam")]
mod asking {
    use std::ffi::{OsStr, OsString};

    use nonstick::items::ItemsMut;
    use nonstick::{
        AuthnFlags, ConversationAdapter, ErrorCode, PamShared, Result as PamResult, Transaction,
        TransactionBuilder,
    };
    use zeroize::Zeroizing;

    use super::Question;

    /// Answers whatever is asked in secret with the password, and nothing else.
    struct Answers(Zeroizing<String>);

    impl ConversationAdapter for Answers {
        fn prompt(&self, _request: impl AsRef<OsStr>) -> PamResult<OsString> {
            Err(ErrorCode::ConversationError)
        }

        fn masked_prompt(&self, _request: impl AsRef<OsStr>) -> PamResult<OsString> {
            Ok(OsString::from(self.0.as_str()))
        }

        fn error_msg(&self, message: impl AsRef<OsStr>) {
            tracing::warn!("PAM: {:?}", message.as_ref());
        }

        fn info_msg(&self, message: impl AsRef<OsStr>) {
            tracing::debug!("PAM: {:?}", message.as_ref());
        }
    }

    /// The password first, then whether the account may be used.
    pub(super) fn check(question: Question) -> Result<(), String> {
        let failed = |what: &'static str| move |error: ErrorCode| format!("{what}: {error}");
        let builder = TransactionBuilder::new_with_service(&question.service).username(&question.user);
        let answers = Answers(question.password).into_conversation();
        let mut asked = builder.build(answers).map_err(failed("PAM does not start"))?;
        let from = OsStr::new(&question.from);
        asked.items_mut().set_remote_host(Some(from)).map_err(failed("PAM does not take the address"))?;
        asked.authenticate(AuthnFlags::SILENT).map_err(failed("not authenticated"))?;
        asked.account_management(AuthnFlags::SILENT).map_err(failed("the account can't be used"))
    }
}
