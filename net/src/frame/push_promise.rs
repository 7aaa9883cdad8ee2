//! PUSH_PROMISE (section 6.6): never sent, and never accepted, since our client switches pushes off and a server's peer
//! must not send them.

use super::{Error, Header};

#[derive(Debug)]
pub enum PushPromise {}

impl PushPromise {
    pub fn parse(_header: &Header, _payload: &[u8]) -> Result<PushPromise, Error> {
        Err(Error::protocol("PUSH_PROMISE"))
    }
}
