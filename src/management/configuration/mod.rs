//! `/manage/config`: what runs, and reading it anew.

mod reload;
mod show;

pub use reload::reload;
pub use show::show;
