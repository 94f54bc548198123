//! Lists: the whole array, or one page of it with its neighbours named.

use std::collections::HashSet;
use std::future::Future;
use std::hash::Hash;

use bytes::{BufMut, BytesMut};
use http::{HeaderName, header};
use serde::Serialize;

use super::answer::Answer;
use super::error::ApiError;
use super::query::Query;
use crate::store::{Page, Paged, StoreError};

/// Rows of a page when only `page` is given.
const DEFAULT_PAGE_SIZE: u32 = 20;
/// Rows of a page at most.
pub const LARGEST_PAGE: u32 = 100;
/// Rows read at once for a whole list.
const READ_AT_ONCE: u32 = 10_000;
/// Bytes of a whole list at most.
const LARGEST_LIST_BYTES: usize = 64 << 20;

const TOTAL_COUNT: HeaderName = HeaderName::from_static("x-total-count");

/// Which page was asked for; `None`: the whole list.
pub fn asked_page(query: &Query) -> Result<Option<Page>, ApiError> {
    let number = query.count("page")?;
    let size = query.count("page_size")?;
    if number.is_none() && size.is_none() {
        return Ok(None);
    }
    let size = size.unwrap_or(DEFAULT_PAGE_SIZE);
    if size > LARGEST_PAGE {
        return Err(ApiError::Invalid(format!(
            "`page_size` must be at most {LARGEST_PAGE}; found `{size}`"
        )));
    }
    Ok(Some(Page {
        number: number.unwrap_or(1),
        size,
    }))
}

/// Answers a list as it was asked for. `read` reads one page, `identity` tells rows apart (a row that moves to
/// a later page while the list is read is shown once), `view` makes what is shown of a row.
pub async fn answer_list<T, I, V, R, F>(
    path: &str,
    query: &Query,
    read: R,
    identity: impl Fn(&T) -> I,
    view: impl Fn(&T) -> V,
) -> Result<Answer, ApiError>
where
    I: Eq + Hash,
    V: Serialize,
    R: Fn(Page) -> F,
    F: Future<Output = Result<Paged<T>, StoreError>>,
{
    let Some(page) = asked_page(query)? else {
        return whole_list(read, identity, view).await;
    };
    let paged = read(page).await?;
    let rows: Vec<V> = paged.rows.iter().map(view).collect();
    Ok(Answer::ok(&rows)
        .with_header(TOTAL_COUNT, &paged.total.to_string())
        .with_header(header::LINK, &links(path, query, page, paged.total)))
}

async fn whole_list<T, I, V, R, F>(
    read: R,
    identity: impl Fn(&T) -> I,
    view: impl Fn(&T) -> V,
) -> Result<Answer, ApiError>
where
    I: Eq + Hash,
    V: Serialize,
    R: Fn(Page) -> F,
    F: Future<Output = Result<Paged<T>, StoreError>>,
{
    let mut seen = HashSet::new();
    let mut list = BytesMut::from(&b"["[..]);
    let mut number = 1;
    loop {
        let paged = read(Page {
            number,
            size: READ_AT_ONCE,
        })
        .await?;
        for row in paged.rows.iter().filter(|row| seen.insert(identity(row))) {
            if list.len() > 1 {
                list.put_u8(b',');
            }
            serde_json::to_writer((&mut list).writer(), &view(row)).map_err(|_| ApiError::Internal)?;
        }
        if list.len() > LARGEST_LIST_BYTES {
            return Err(ApiError::Invalid(format!(
                "the list is larger than {LARGEST_LIST_BYTES} bytes; read it with `page` and `page_size`"
            )));
        }
        let last = paged.rows.len() < READ_AT_ONCE as usize;
        if last || u64::from(number) * u64::from(READ_AT_ONCE) >= paged.total {
            break;
        }
        number += 1;
    }
    list.put_slice(b"]\n");
    Ok(Answer::ready(list.freeze()))
}

/// Pages that `total` rows fill.
pub fn page_count(total: u64, size: u32) -> u64 {
    total.div_ceil(u64::from(size.max(1)))
}

/// The `Link` of a page.
pub fn links(path: &str, query: &Query, page: Page, total: u64) -> String {
    let last = page_count(total, page.size).max(1);
    let here = u64::from(page.number);
    let mut links = Vec::with_capacity(4);
    let mut add = |relation: &str, number: u64| {
        links.push(format!(
            "<{path}?{}>; rel=\"{relation}\"",
            query.with_page(number, page.size)
        ));
    };
    add("first", 1);
    if here > 1 {
        add("prev", (here - 1).min(last));
    }
    if here < last {
        add("next", here + 1);
    }
    add("last", last);
    links.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_name_the_neighbours_and_keep_the_filters() {
        let query = Query::of(&http::Uri::from_static("/t?page=2&page_size=10&project_id=a%26b"));
        let page = asked_page(&query).unwrap().unwrap();
        let text = links("/t", &query, page, 25);
        assert_eq!(
            text,
            "</t?page=1&page_size=10&project%5Fid=a%26b>; rel=\"first\", \
             </t?page=1&page_size=10&project%5Fid=a%26b>; rel=\"prev\", \
             </t?page=3&page_size=10&project%5Fid=a%26b>; rel=\"next\", \
             </t?page=3&page_size=10&project%5Fid=a%26b>; rel=\"last\""
        );
    }
}
