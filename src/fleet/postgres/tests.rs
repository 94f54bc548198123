//! Payloads and gaps, without a server; `store/postgres` plays the whole of it on one.

use super::*;
use crate::domain::{ProjectId, TokenId};

#[test]
fn payloads_are_read_and_unknown_ones_mean_everything() {
    let (token, project) = (TokenId::random(), ProjectId::random());
    let table = [
        (format!("token {token} 7"), Changed::Token(token), Some(7)),
        (format!("project {project} 8"), Changed::Project(project), Some(8)),
        (format!("model {token} 9"), Changed::Everything, Some(9)),
        ("token nonsense 9".to_owned(), Changed::Everything, Some(9)),
        (format!("token {token}"), Changed::Token(token), None),
        (String::new(), Changed::Everything, None),
    ];
    for (payload, change, counter) in table {
        let heard = parse(&payload);
        assert_eq!((heard.change, heard.counter), (change, counter), "`{payload}`");
    }
}

#[test]
fn a_change_without_notification_is_noticed_at_the_second_look_and_later_at_the_first() {
    let mut place = Place {
        hears: true,
        counter: 5,
        is_behind: false,
    };
    assert!(!place.missed(5));
    assert!(!place.missed(6), "its notification may be on its way");
    assert!(place.missed(6));
    place.counter = 6;
    assert!(!place.missed(6));
    assert!(place.missed(7), "notifications do not arrive here");
    place.counter = 7;
    assert!(place.missed(3), "the database was restored");
}
