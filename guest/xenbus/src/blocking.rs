//! A client of one thread.

use core::cell::RefCell;

use alloc::vec::Vec;
use ebb_ring::Page;
use shared_abi::io::xs_wire::MessageType;

use crate::connection::{Connection, Event, Request};
use crate::error::{Error, Fault};
use crate::store::Exchange;

/// The event channel.
pub trait Signal {
    /// Sends an event to the server.
    fn send(&mut self);

    /// Waits until the channel has fired since the last call returned; it may return early. False to give up.
    fn wait(&mut self) -> bool;
}

/// A connection and its channel.
#[derive(Debug)]
pub struct Blocking<P, S> {
    inner: RefCell<Inner<P, S>>,
}

#[derive(Debug)]
struct Inner<P, S> {
    connection: Connection<P>,
    signal: S,
}

impl<P: Page, S: Signal> Blocking<P, S> {
    /// A client.
    pub fn new(connection: Connection<P>, signal: S) -> Blocking<P, S> {
        Blocking { inner: RefCell::new(Inner { connection, signal }) }
    }

    /// An event, when one is there or comes before the channel's wait gives up ([`Error::TimedOut`]).
    /// [`Error::Reset`] once after events were lost.
    pub fn next_event(&self) -> Result<Event, Error> {
        let inner = &mut *self.inner.borrow_mut();
        inner.until(|connection| {
            if connection.take_events_lost() {
                return Some(Err(Error::Reset));
            }
            connection.take_event().map(Ok)
        })?
    }

    /// Asks for the connection as new, without waiting for the answer; false when the server does not offer it.
    pub fn reconnect(&self) -> bool {
        let inner = &mut *self.inner.borrow_mut();
        let asked = inner.connection.reconnect();
        if asked {
            inner.signal.send();
        }
        asked
    }
}

impl<P: Page, S: Signal> Inner<P, S> {
    /// Moves bytes, and tells the server.
    fn poll(&mut self) -> Result<(), Fault> {
        if self.connection.poll()? {
            self.signal.send();
        }
        Ok(())
    }

    /// Waits until `done` finds something.
    fn until<T>(&mut self, mut done: impl FnMut(&mut Connection<P>) -> Option<T>) -> Result<T, Error> {
        loop {
            let polled = self.poll();
            // What arrived before the connection broke still counts.
            if let Some(result) = done(&mut self.connection) {
                return Ok(result);
            }
            polled?;
            if !self.signal.wait() {
                return Err(Error::TimedOut);
            }
        }
    }

    fn reply(&mut self, request: Request) -> Result<Vec<u8>, Error> {
        let result = self.until(|connection| connection.take_reply(request));
        self.connection.forget(request);
        result?
    }
}

impl<P: Page, S: Signal> Exchange for Blocking<P, S> {
    fn exchange(&self, type_: MessageType, transaction: u32, parts: &[&[u8]]) -> Result<Vec<u8>, Error> {
        let inner = &mut *self.inner.borrow_mut();
        let request = inner.connection.submit(type_, transaction, parts)?;
        inner.reply(request)
    }
}
