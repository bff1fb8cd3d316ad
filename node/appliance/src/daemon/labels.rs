//! Labels of pools, volumes and snapshots: keys and values that users gave.

use std::collections::BTreeMap;

use super::error::{CallFailed, Kind};

/// Keys that begin like this are the node's own, and are not shown.
const OWN: &str = "fathom:";
/// The UUID of the volume or snapshot that a volume was made from.
pub(super) const SOURCE: &str = "fathom:source";

/// What changes about labels.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(crate) struct Change {
    pub(crate) set: BTreeMap<String, String>,
    pub(crate) remove: Vec<String>,
}

impl Change {
    /// Changes labels.
    ///
    /// # Errors
    ///
    /// [`Kind::Invalid`] for a key that is not the user's.
    pub(crate) fn apply(&self, labels: &mut Vec<(String, String)>) -> Result<(), CallFailed> {
        if let Some(key) = self.set.keys().chain(&self.remove).find(|key| key.starts_with(OWN)) {
            return Err(CallFailed::new(
                Kind::Invalid,
                format_args!("label \"{key}\": keys that begin with \"{OWN}\" are the node's own"),
            ));
        }
        labels.retain(|(key, _)| !self.remove.contains(key) && !self.set.contains_key(key));
        labels.extend(self.set.clone());
        Ok(())
    }
}

/// The labels that users gave.
pub(super) fn of_users(labels: &[(String, String)]) -> BTreeMap<String, String> {
    labels.iter().filter(|(key, _)| !key.starts_with(OWN)).cloned().collect()
}

/// The value of a label.
pub(super) fn find<'a>(labels: &'a [(String, String)], key: &str) -> Option<&'a str> {
    labels.iter().find(|(found, _)| found == key).map(|(_, value)| value.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_set_and_removed_and_the_nodes_own_stay() {
        let label = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        let mut labels = vec![label(SOURCE, "1"), label("a", "1"), label("b", "2")];
        let set = BTreeMap::from([label("a", "3"), label("c", "4")]);
        let change = Change { set, remove: vec!["b".to_owned(), "x".to_owned()] };
        change.apply(&mut labels).expect("they are the user's");
        assert_eq!(of_users(&labels), BTreeMap::from([label("a", "3"), label("c", "4")]));
        assert_eq!(find(&labels, SOURCE), Some("1"));
        let own = Change { remove: vec![SOURCE.to_owned()], ..Change::default() };
        assert_eq!(own.apply(&mut labels).expect_err("it is not").kind, Kind::Invalid);
    }
}
