//! What every command needs: where the daemon is, how to answer, and which base model is meant
//! when none is named.

use kmerge_client::{Address, Client};

use crate::failure::Failure;
use crate::output::Output;

/// What every command needs.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) address: Address,
    pub(crate) output: Output,
}

impl Context {
    pub(crate) fn new(address: Address, output: Output) -> Self {
        Self { address, output }
    }

    /// A connection to the daemon.
    pub(crate) async fn client(&self) -> Result<Client, Failure> {
        Ok(Client::connect_to(&self.address).await?)
    }
}

/// The base model that is named, or the only one that is registered.
pub(crate) async fn base_model(client: &Client, named: Option<String>) -> Result<String, Failure> {
    if let Some(name) = named {
        return Ok(name);
    }
    let mut names: Vec<String> = client
        .list_base_models()
        .await?
        .into_iter()
        .map(|base| base.name)
        .collect();
    only(&mut names)
}

fn only(names: &mut Vec<String>) -> Result<String, Failure> {
    match (names.pop(), names.as_slice()) {
        (Some(name), []) => Ok(name),
        (None, _) => Err(
            Failure::not_found("NO_BASE_MODEL", "no base model is registered")
                .hint("kmerge base add NAME --config config.json"),
        ),
        (Some(last), others) => {
            let names: Vec<_> = others.iter().chain([&last]).map(String::as_str).collect();
            Err(
                Failure::usage("several base models are registered, and none is named")
                    .hint(format!("say --base and one of: {}", names.join(", "))),
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::Exit;

    #[test]
    fn the_only_base_model_is_meant() {
        assert_eq!(only(&mut vec!["a".into()]).unwrap(), "a");
    }

    #[test]
    fn none_and_several_are_answered_with_what_to_do() {
        let none = only(&mut vec![]).unwrap_err();
        assert_eq!(none.exit, Exit::NotFound);
        let several = only(&mut vec!["a".into(), "b".into()]).unwrap_err();
        assert_eq!(several.exit, Exit::Usage);
        assert_eq!(several.hint.unwrap(), "say --base and one of: a, b");
    }
}
