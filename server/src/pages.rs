//! Pages of a list: sizes, tokens, and cutting one page out. Plain code.
//!
//! A token is the key of the last item that was given; to clients it is opaque. Keys are unique
//! and ordered, so a page never repeats or skips what did not change meanwhile.

use kmerge_proto::limits::MAX_PAGE_SIZE;

use crate::error::ServerError;

/// What a client gets that names no size.
const DEFAULT_PAGE_SIZE: usize = 100;

/// A wish for a page, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    size: usize,
    after: Option<String>,
}

/// One page and the token of the next, empty at the end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cut<T> {
    /// The items.
    pub items: Vec<T>,
    /// The token of the next page.
    pub next_page_token: String,
}

impl Page {
    /// Reads the two fields that every list request has.
    ///
    /// # Errors
    /// A negative size is INVALID_ARGUMENT; one that is too large is taken as the largest.
    pub fn new(page_size: i32, page_token: String) -> Result<Self, ServerError> {
        let size = match page_size {
            0 => DEFAULT_PAGE_SIZE,
            wish => usize::try_from(wish.min(MAX_PAGE_SIZE)).map_err(|_| ServerError::Field {
                field: "page_size",
                problem: format!("is {page_size}; it must not be negative"),
            })?,
        };
        Ok(Self {
            size,
            after: (!page_token.is_empty()).then_some(page_token),
        })
    }

    /// Cuts this page out of `items`, which come in order; `key` names each.
    ///
    /// # Errors
    /// A token that names no item any more is INVALID_ARGUMENT: start again.
    pub fn cut<T>(
        &self,
        items: impl IntoIterator<Item = T>,
        key: impl Fn(&T) -> String,
    ) -> Result<Cut<T>, ServerError> {
        let mut items = items.into_iter();
        if let Some(after) = &self.after
            && !items.by_ref().any(|item| key(&item) == *after)
        {
            return Err(ServerError::Field {
                field: "page_token",
                problem: "is not one that this list gave, or its item is gone: start again".into(),
            });
        }
        let mut page: Vec<T> = items.by_ref().take(self.size).collect();
        let more = items.next().is_some();
        let next_page_token = page.last().filter(|_| more).map(&key).unwrap_or_default();
        page.shrink_to_fit();
        Ok(Cut {
            items: page,
            next_page_token,
        })
    }
}

impl<T> Cut<T> {
    /// Converts the items.
    ///
    /// # Errors
    /// What `convert` says.
    pub fn try_map<U, E>(self, convert: impl FnMut(T) -> Result<U, E>) -> Result<Cut<U>, E> {
        let items = self
            .items
            .into_iter()
            .map(convert)
            .collect::<Result<_, _>>()?;
        Ok(Cut {
            items,
            next_page_token: self.next_page_token,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(size: i32, token: &str) -> Page {
        Page::new(size, token.to_owned()).unwrap()
    }

    #[test]
    fn pages_cover_a_list_exactly_once() {
        for size in 1..=11 {
            let mut seen = Vec::new();
            let mut token = String::new();
            loop {
                let cut = page(size, &token).cut(0..10, ToString::to_string).unwrap();
                assert!(!cut.items.is_empty());
                seen.extend(cut.items);
                token = cut.next_page_token;
                if token.is_empty() {
                    break;
                }
            }
            assert_eq!(seen, (0..10).collect::<Vec<_>>());
        }
    }

    #[test]
    fn sizes_are_checked_and_coerced() {
        assert!(matches!(
            Page::new(-1, String::new()),
            Err(ServerError::Field {
                field: "page_size",
                ..
            })
        ));
        assert_eq!(page(i32::MAX, "").size, 1000);
        assert_eq!(page(0, "").size, DEFAULT_PAGE_SIZE);
    }

    #[test]
    fn a_stale_token_is_refused() {
        let result = page(3, "99").cut(0..10, ToString::to_string);
        assert!(matches!(
            result,
            Err(ServerError::Field {
                field: "page_token",
                ..
            })
        ));
    }
}
