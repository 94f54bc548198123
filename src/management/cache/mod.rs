//! `/manage/cache`: what is in it, and dropping it.

mod purge;
mod show;

pub use purge::purge;
pub use show::show;
