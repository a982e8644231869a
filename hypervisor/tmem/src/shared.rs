//! Shared pools: ephemeral pages that several clients see under one name.
//!
//! A shared pool is paid for by the member that has been in it longest. When that one leaves, everything in it is
//! given back first (ephemeral pages may go at any time), then the next one pays for what comes. Members can flush
//! each other's pages anyway, so this gives nobody a new power.

use arrayvec::ArrayVec;
use spin::Mutex;

use crate::arena::Arena;
use crate::client::{Gate, State, Uuid};
use crate::frames::{ClientId, Kind};

/// Places of members in a shared pool.
const MEMBERS: usize = 64;

/// A member: a client, and which of its pools.
pub(crate) type Member = (ClientId, u8);

#[derive(Debug, Default)]
pub(crate) struct Members {
    pub uuid: Uuid,
    pub list: ArrayVec<Member, MEMBERS>,
}

/// A shared pool. In its arena everything is pool 0.
pub struct SharedPool {
    /// Its life.
    pub gate: Gate,
    /// Its pages.
    pub arena: Arena,
    pub(crate) members: Mutex<Members>,
}

impl SharedPool {
    /// None yet. (`None` when there is no memory for one.)
    pub(crate) fn try_new() -> Option<Self> {
        let arena = Arena::try_new(ClientId(0), Kind::Ephemeral)?;
        let members = Mutex::new(Members { uuid: [0; 2], list: ArrayVec::new_const() });
        Some(Self { gate: Gate::new(), arena, members })
    }

    /// Enters a member if the pool has this name. `None`: another name, or no pool. False: no place.
    pub(crate) fn join(&self, uuid: Uuid, member: Member) -> Option<bool> {
        let mut members = self.members.lock();
        if self.gate.life.state() == State::Free || members.uuid != uuid {
            return None;
        }
        Some(members.list.try_push(member).is_ok())
    }

    /// Begins a pool here with its first member; false when there is one already.
    pub(crate) fn begin(&self, uuid: Uuid, member: Member) -> bool {
        let mut members = self.members.lock();
        if self.gate.life.state() != State::Free {
            return false;
        }
        members.uuid = uuid;
        members.list.clear();
        members.list.push(member);
        self.arena.set_client(member.0);
        self.gate.life.set(State::Live);
        true
    }

    /// Takes a member out. False while what it pays for must be drained first.
    pub(crate) fn leave(&self, member: Member) -> bool {
        let mut members = self.members.lock();
        members.list.retain(|other| *other != member);
        let pays = self.gate.life.state() != State::Free && self.arena.client() == member.0;
        if !pays || members.list.iter().any(|other| other.0 == member.0) {
            return true;
        }
        self.gate.life.close();
        false
    }

    /// Ends the draining: the next member pays, or there is no pool any more. False when something is still in it.
    pub(crate) fn hand_on(&self) -> bool {
        let members = self.members.lock();
        if self.gate.life.state() != State::Draining {
            return true;
        }
        if !self.gate.is_unused() || !self.arena.is_empty() {
            return false;
        }
        match members.list.first() {
            Some(next) => {
                self.arena.set_client(next.0);
                self.gate.life.set(State::Live);
            }
            None => self.gate.life.set(State::Free),
        }
        true
    }

    /// Its name and members.
    pub(crate) fn describe(&self) -> Option<(Uuid, ArrayVec<Member, MEMBERS>)> {
        let members = self.members.lock();
        (self.gate.life.state() != State::Free).then(|| (members.uuid, members.list.clone()))
    }
}
