//! The tree of layers as it is asked: who leads to a layer, and which layers nobody names.
//!
//! It follows from the layers, volumes and snapshots of the state, and is brought up to date with
//! each operation on one of them: a pool has tens of thousands, and none of these questions may
//! cost a look at all of them.

use std::collections::{BTreeMap, BTreeSet};

use crate::geometry::{LayerId, ObjectId};

/// How many things lead to a layer.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(crate) struct Links {
    /// Layers of which it is the parent.
    pub(crate) children: u32,
    /// Volumes and snapshots that name it.
    pub(crate) names: u32,
}

/// The tree, from its roots to its leaves.
#[derive(Default)]
pub(crate) struct Tree {
    links: BTreeMap<LayerId, Links>,
    /// Pairs of a layer and its child.
    children: BTreeSet<(LayerId, LayerId)>,
    /// Layers that exist and that no volume or snapshot names.
    nameless: BTreeSet<LayerId>,
    /// The volume that writes a layer.
    writers: BTreeMap<LayerId, ObjectId>,
}

impl Tree {
    /// How many things lead to `layer`.
    pub(crate) fn links(&self, layer: LayerId) -> Links {
        self.links.get(&layer).copied().unwrap_or_default()
    }

    /// The layers whose parent is `layer`, the oldest first.
    pub(crate) fn children(&self, layer: LayerId) -> impl Iterator<Item = LayerId> + '_ {
        let all = (layer, LayerId(0))..=(layer, LayerId(u32::MAX));
        self.children.range(all).map(|&(_, child)| child)
    }

    /// The layers that no volume or snapshot names, the oldest first.
    pub(crate) fn nameless(&self) -> impl Iterator<Item = LayerId> + '_ {
        self.nameless.iter().copied()
    }

    /// The volume whose tip is `layer`.
    pub(crate) fn writer(&self, layer: LayerId) -> Option<ObjectId> {
        self.writers.get(&layer).copied()
    }

    /// A layer has been made, without a parent.
    pub(super) fn made(&mut self, layer: LayerId) {
        if self.links(layer).names == 0 {
            self.nameless.insert(layer);
        }
    }

    /// A layer has got another parent.
    pub(super) fn moved(&mut self, layer: LayerId, old: Option<LayerId>, new: Option<LayerId>) {
        if let Some(old) = old {
            self.children.remove(&(old, layer));
            self.link(old, |links| links.children -= 1);
        }
        if let Some(new) = new {
            self.children.insert((new, layer));
            self.link(new, |links| links.children += 1);
        }
    }

    /// A layer is gone.
    pub(super) fn dropped(&mut self, layer: LayerId, parent: Option<LayerId>) {
        self.moved(layer, parent, None);
        self.nameless.remove(&layer);
    }

    /// A volume or snapshot names `new` instead of `old`. `old_exists`: that layer has been made and
    /// not been dropped.
    pub(super) fn named(&mut self, old: Option<LayerId>, old_exists: bool, new: Option<LayerId>) {
        if let Some(old) = old {
            self.link(old, |links| links.names -= 1);
            if old_exists && self.links(old).names == 0 {
                self.nameless.insert(old);
            }
        }
        if let Some(new) = new {
            self.link(new, |links| links.names += 1);
            self.nameless.remove(&new);
        }
    }

    /// A volume writes `new` instead of `old`.
    pub(super) fn written(&mut self, volume: ObjectId, old: Option<LayerId>, new: Option<LayerId>) {
        if let Some(old) = old
            && self.writers.get(&old) == Some(&volume)
        {
            self.writers.remove(&old);
        }
        if let Some(new) = new {
            self.writers.insert(new, volume);
        }
    }

    fn link(&mut self, layer: LayerId, change: impl FnOnce(&mut Links)) {
        let links = self.links.entry(layer).or_default();
        change(links);
        if *links == Links::default() {
            self.links.remove(&layer);
        }
    }
}
