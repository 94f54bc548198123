//! Whose turn it is among those who wait: round about the client tokens, first come, first served within one.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use tokio::sync::Notify;

use crate::domain::TokenId;

/// Those who wait. A token stands in the round while somebody waits for it; who was served goes to the end of the round.
#[derive(Debug, Default)]
pub(super) struct Turns {
    lines: HashMap<TokenId, Line>,
    /// The round: the lowest turn is the next.
    round: BTreeMap<u64, TokenId>,
    /// Turns and tickets are numbered together; a number comes once.
    next_number: u64,
    waiting: u32,
    tokens: u128,
}

/// Those who wait for one token, by their tickets.
#[derive(Debug)]
struct Line {
    turn: u64,
    waiters: BTreeMap<u64, Waiter>,
}

#[derive(Debug)]
struct Waiter {
    tokens: u64,
    wake: Arc<Notify>,
}

/// One who waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ticket {
    who: TokenId,
    number: u64,
}

impl Turns {
    /// How many wait.
    pub(super) fn waiting(&self) -> u32 {
        self.waiting
    }

    /// How many language-model tokens they ask for together.
    pub(super) fn tokens(&self) -> u128 {
        self.tokens
    }

    /// Goes to the end of its token's line; a token that had none goes to the end of the round.
    pub(super) fn join(&mut self, who: TokenId, tokens: u64, wake: Arc<Notify>) -> Ticket {
        let number = self.number();
        if !self.lines.contains_key(&who) {
            let turn = self.number();
            self.round.insert(turn, who);
            self.lines.insert(
                who,
                Line {
                    turn,
                    waiters: BTreeMap::new(),
                },
            );
        }
        if let Some(line) = self.lines.get_mut(&who) {
            line.waiters.insert(number, Waiter { tokens, wake });
            self.waiting += 1;
            self.tokens += u128::from(tokens);
        }
        Ticket { who, number }
    }

    /// Is it this one's turn?
    pub(super) fn is_first(&self, ticket: Ticket) -> bool {
        self.first()
            .is_some_and(|(who, number, _)| who == ticket.who && number == ticket.number)
    }

    /// Tells the one whose turn it is to look again.
    pub(super) fn wake_first(&self) {
        if let Some((_, _, waiter)) = self.first() {
            waiter.wake.notify_one();
        }
    }

    /// Takes out one that was served: its token goes to the end of the round.
    pub(super) fn serve(&mut self, ticket: Ticket) {
        self.remove(ticket);
        let turn = self.number();
        if let Some(line) = self.lines.get_mut(&ticket.who) {
            self.round.remove(&line.turn);
            line.turn = turn;
            self.round.insert(turn, ticket.who);
        }
    }

    /// Takes out one that gave up: the next of its token has the turn. Of those no longer there nothing is changed.
    pub(super) fn remove(&mut self, ticket: Ticket) {
        let Some(line) = self.lines.get_mut(&ticket.who) else {
            return;
        };
        let Some(waiter) = line.waiters.remove(&ticket.number) else {
            return;
        };
        self.waiting -= 1;
        self.tokens -= u128::from(waiter.tokens);
        if line.waiters.is_empty() {
            self.round.remove(&line.turn);
            self.lines.remove(&ticket.who);
        }
    }

    fn first(&self) -> Option<(TokenId, u64, &Waiter)> {
        let (_, who) = self.round.first_key_value()?;
        let (number, waiter) = self.lines.get(who)?.waiters.first_key_value()?;
        Some((*who, *number, waiter))
    }

    fn number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number
    }
}
