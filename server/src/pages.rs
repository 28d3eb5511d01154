//! Pages of a list: sizes, tokens, and cutting one page out. Plain code.
//!
//! A token is the key of the last item that was given; to clients it is opaque. Keys are unique
//! and ordered, so a page never repeats or skips what did not change meanwhile, and goes on behind
//! an item that has left.

use std::cmp::Ordering;
use std::fmt::Display;
use std::str::FromStr;

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

    /// Cuts this page out of `items`, which come in the order of what `key` gives of each.
    ///
    /// # Errors
    /// A token that is no key is INVALID_ARGUMENT.
    pub fn cut<T, K: Ord + Display + FromStr>(
        &self,
        items: impl IntoIterator<Item = T>,
        key: impl Fn(&T) -> K,
    ) -> Result<Cut<T>, ServerError> {
        let after: Option<K> = match &self.after {
            None => None,
            Some(token) => Some(token.parse().map_err(|_| ServerError::Field {
                field: "page_token",
                problem: "is not one that this list gave: start again without one".into(),
            })?),
        };
        let mut items = items
            .into_iter()
            .skip_while(|item| after.as_ref().is_some_and(|after| key(item) <= *after));
        let mut page: Vec<T> = items.by_ref().take(self.size).collect();
        let more = items.next().is_some();
        let last = page.last().filter(|_| more);
        let next_page_token = last.map(|item| key(item).to_string()).unwrap_or_default();
        page.shrink_to_fit();
        Ok(Cut {
            items: page,
            next_page_token,
        })
    }
}

/// Two keys, the first of which counts more. Neither may have a slash when it is written.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pair<A, B>(pub A, pub B);

impl<A: Display, B: Display> Display for Pair<A, B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.0, self.1)
    }
}

/// A text that is no key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoKey;

impl<A: FromStr, B: FromStr> FromStr for Pair<A, B> {
    type Err = NoKey;

    fn from_str(text: &str) -> Result<Self, NoKey> {
        let (first, second) = text.split_once('/').ok_or(NoKey)?;
        let first = first.parse().map_err(|_| NoKey)?;
        let second = second.parse().map_err(|_| NoKey)?;
        Ok(Self(first, second))
    }
}

/// A key of a list in which the largest comes first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Descending<K>(pub K);

impl<K: Ord> PartialOrd for Descending<K> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<K: Ord> Ord for Descending<K> {
    fn cmp(&self, other: &Self) -> Ordering {
        other.0.cmp(&self.0)
    }
}

impl<K: Display> Display for Descending<K> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl<K: FromStr> FromStr for Descending<K> {
    type Err = K::Err;

    fn from_str(text: &str) -> Result<Self, K::Err> {
        text.parse().map(Self)
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
                let cut = page(size, &token).cut(0..10, |&item| item).unwrap();
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
    fn a_page_goes_on_behind_an_item_that_has_left() {
        let cut = |token: &str| page(2, token).cut([1, 2, 4, 5], |&item| item);
        assert_eq!(cut("3").unwrap().items, [4, 5]);
        assert_eq!(cut("9").unwrap().items, [0; 0]);
        let newest_first = page(2, "4").cut([5, 3, 2], |&item| Descending(item));
        assert_eq!(newest_first.unwrap().items, [3, 2]);
        let pairs = [("a", 2), ("b", 1)].map(|(name, number)| Pair(name.to_owned(), number));
        let cut = page(2, "a/10").cut(pairs, Pair::clone).unwrap();
        assert_eq!(cut.items, [Pair("b".to_owned(), 1)]);
    }

    #[test]
    fn a_token_that_is_no_key_is_refused() {
        let result = page(3, "x").cut(0..10, |&item| item);
        assert!(matches!(
            result,
            Err(ServerError::Field {
                field: "page_token",
                ..
            })
        ));
    }
}
