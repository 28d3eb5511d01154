//! The upload state machine: admission, staging, validation and queue, driven in this process over
//! a real state directory in memory, by the messages of up to three uploads at once.
//!
//! An input is a program of small instructions (`Instruction`). What must hold:
//! - an upload is accepted exactly if its messages were those of a good one, and a refusal has a
//!   status that says whose fault it was, never INTERNAL;
//! - however uploads end, nobody is left waiting, no permit is lost, and nothing is staged but what
//!   is queued; a job that is cancelled leaves nothing at all.

mod machine;
mod program;

pub(crate) use machine::room;

use std::cell::RefCell;

use machine::Machine;

thread_local! {
    static MACHINE: RefCell<Option<Machine>> = const { RefCell::new(None) };
}

pub fn check(input: &[u8]) {
    MACHINE.with_borrow_mut(|machine| {
        let machine = machine.get_or_insert_with(Machine::start);
        machine.run(&program::read(input));
    });
}
