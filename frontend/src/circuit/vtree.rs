//! `.vtree`: `vtree N`, then leaves `L id var` and inner nodes `I id left right`, children before parents.

use super::text::{Result, Text};
use kiln_ir::circuit::{Vtree, VtreeNode};
use std::collections::HashMap;

pub(super) fn read(text: &mut Text<'_>) -> Result<Vtree> {
    let Some(mut head) = text.content()? else { return Err(text.error("`vtree`", "the end of the file")) };
    if head.word() != Some(b"vtree") {
        return Err(head.error("`vtree`", "another beginning"));
    }
    let declared = head.natural("the number of nodes")?;
    head.end()?;
    let mut nodes: Vec<VtreeNode> = vec![];
    let mut numbers: HashMap<u32, u32> = HashMap::new();
    let mut is_child: Vec<bool> = vec![];
    while let Some(mut f) = text.content()? {
        let letter = f.word().unwrap_or_default();
        if !matches!(letter, b"L" | b"I") {
            let found = crate::error::shown(&String::from_utf8_lossy(letter));
            return Err(f.error("a node, which begins with L or I", format!("`{found}`")));
        }
        let id = f.natural("the number of the node")?;
        let node = if letter == b"L" {
            VtreeNode::Leaf { var: f.variable()? }
        } else {
            let mut child = || -> Result<u32> {
                let id = f.natural("the number of a node")?;
                let found = numbers.get(&id).copied();
                let found = found.ok_or_else(|| f.error("the number of a node on a line above", id.to_string()))?;
                if std::mem::replace(&mut is_child[found as usize], true) {
                    return Err(f.error("nodes with one parent each", format!("node {id} below two")));
                }
                Ok(found)
            };
            VtreeNode::Inner { left: child()?, right: child()? }
        };
        f.end()?;
        if numbers.insert(id, nodes.len() as u32).is_some() {
            return Err(f.error("a number that no other node has", id.to_string()));
        }
        nodes.push(node);
        is_child.push(false);
    }
    if nodes.len() != declared as usize {
        return Err(text.error(format!("{declared} nodes, as the header says"), nodes.len().to_string()));
    }
    // All others stand above their parents, so that one root is the last node.
    let roots = is_child.iter().filter(|c| !**c).count();
    if roots != 1 {
        return Err(text.error("one node without a parent, the root", roots.to_string()));
    }
    Vtree::new(nodes).map_err(|e| text.error("a vtree", e))
}
