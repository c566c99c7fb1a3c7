use crate::memory::{MemoryAccount, MemoryBudget};
use proptest::prelude::*;

use super::super::Encoding;
use super::super::entry::{Time, classify, clean};
use super::*;
use crate::clip::node::{FileContent, NodeKind};

/// One entry of a test layer: `d NAME MODE`, `f NAME`, `l NAME TARGET` (symlink), `h NAME TARGET`
/// (hard link), `p NAME` (fifo), `w NAME` (a name taken as it is: whiteouts).
fn entry(line: &str, offset: u64) -> Entry {
    let mut words = line.split(' ');
    let (kind, name) = (words.next().unwrap(), words.next().unwrap());
    let argument = words.next();
    let path = clean(name.as_bytes()).unwrap();
    let meta = Meta {
        mode: 0o644,
        mtime: Time { seconds: offset.cast_signed(), nanos: 1 },
        ..Meta::default()
    };
    let kind = match kind {
        "d" => {
            let mode = u32::from_str_radix(argument.unwrap_or("755"), 8).unwrap();
            EntryKind::Directory(Meta { mode, ..meta })
        }
        "f" => EntryKind::File { meta, offset, length: 10 },
        "l" => EntryKind::Symlink { meta, target: argument.unwrap().as_bytes().to_vec() },
        "h" => EntryKind::HardLink { target: clean(argument.unwrap().as_bytes()).unwrap() },
        "p" => EntryKind::Special { meta, special: Special::Fifo, rdev: 0 },
        "w" => {
            use super::super::entry::Name;
            let (path, kind) = match classify(path).unwrap() {
                Name::Whiteout(path) => (path, EntryKind::Whiteout),
                Name::Opaque(path) => (path, EntryKind::Opaque),
                other => panic!("{other:?}"),
            };
            return Entry { path, kind };
        }
        other => panic!("{other}"),
    };
    Entry { path, kind }
}

fn layer(number: u8, lines: &str) -> LayerIndex {
    let lines = lines.split(';').map(str::trim).filter(|line| !line.is_empty());
    LayerIndex {
        digest: Digest::of(&[number]),
        encoding: Encoding::Gzip,
        diff_id: Digest::of(b""),
        compressed_size: 0,
        plain_size: 0,
        entries: lines.zip((1000 * u64::from(number) + 1)..).map(|(l, at)| entry(l, at)).collect(),
        notes: Vec::new(),
        spans: Vec::new(),
    }
}

fn try_merged(layers: &[&str]) -> Result<Vec<Node>, LayerError> {
    let layers: Vec<_> = (1..).zip(layers).map(|(n, lines)| layer(n, lines)).collect();
    merge(&layers, &Limits::default(), &MemoryAccount::default())
}

/// `path`, or `path@L` for files of layer L, `path -> target`, `path/` for directories.
fn shown(layers: &[&str]) -> String {
    let digests: Vec<_> = (1..=9).map(|n: u8| Digest::of(&[n])).collect();
    let show = |node: &Node| match &node.kind {
        NodeKind::Directory if node.path.is_root() => "/".to_owned(),
        NodeKind::Directory => format!("{}/", node.path),
        NodeKind::Symlink { target } => {
            format!("{} -> {}", node.path, String::from_utf8_lossy(target))
        }
        NodeKind::File(FileContent::Remote(remote)) => {
            let layer = digests.iter().position(|d| *d == remote.layer).unwrap() + 1;
            format!("{}@{layer}", node.path)
        }
        NodeKind::File(content) => panic!("{content:?}"),
        NodeKind::Special(_) => format!("{} (special)", node.path),
    };
    let nodes = try_merged(layers).unwrap();
    assert!(nodes.is_sorted_by(|a, b| a.path < b.path));
    nodes.iter().map(show).collect::<Vec<_>>().join(" ")
}

fn node(nodes: &[Node], path: &str) -> Node {
    nodes.iter().find(|n| n.path.as_bytes() == path.as_bytes()).unwrap().clone()
}

#[test]
fn no_layers_make_a_root() {
    let nodes = merge(&[], &Limits::default(), &MemoryAccount::default()).unwrap();
    assert_eq!(nodes.len(), 1);
    assert_eq!(nodes[0].attr.ino, 1);
    assert_eq!(nodes[0].attr.mode, 0o040_755);
}

#[test]
fn upper_layers_add_and_replace() {
    assert_eq!(shown(&["d a; f a/x; f b", "f b; f a/y"]), "/ /a/ /a/x@1 /a/y@2 /b@2");
}

#[test]
fn a_directory_keeps_its_children_and_takes_new_attributes() {
    let nodes = try_merged(&["d a 700; f a/x", "d a 711"]).unwrap();
    assert_eq!(node(&nodes, "/a").attr.mode, 0o040_711);
    assert_eq!(nodes.len(), 3);
}

#[test]
fn the_largest_owner_leaves_the_one_before() {
    let owned = |number, lines: &str, owners: &[(u32, u32)]| {
        let mut layer = layer(number, lines);
        for (Entry { kind, .. }, owner) in layer.entries.iter_mut().zip(owners) {
            let (EntryKind::Directory(meta) | EntryKind::File { meta, .. }) = kind else {
                panic!()
            };
            (meta.uid, meta.gid) = *owner;
        }
        layer
    };
    let none = u32::MAX;
    let lower = owned(1, "d d; f f; f g", &[(1000, 1001), (none, 7), (5, 5)]);
    let upper = owned(2, "d .; d d; f g", &[(none, none), (none, 1), (none, none)]);
    let nodes = merge(&[lower, upper], &Limits::default(), &MemoryAccount::default()).unwrap();
    for (path, owner) in [("/", (0, 0)), ("/d", (1000, 1)), ("/f", (0, 7)), ("/g", (0, 0))] {
        let attr = node(&nodes, path).attr;
        assert_eq!((attr.uid, attr.gid), owner, "{path}");
    }
}

#[test]
fn a_non_directory_replaces_a_directory_and_its_children_for_good() {
    assert_eq!(shown(&["d a; f a/x", "f a"]), "/ /a@2");
    // CONTRACT B.4, 16: upstream lets the children come back.
    assert_eq!(shown(&["d a; f a/x", "f a", "d a"]), "/ /a/");
    assert_eq!(shown(&["d a; f a/x", "l a b", "d a; f a/y"]), "/ /a/ /a/y@3");
    assert_eq!(shown(&["d a; f a/x", "p a"]), "/ /a (special)");
}

#[test]
fn whiteouts_act_on_lower_layers_only_whatever_their_order() {
    for upper in ["w a/.wh.x; f a/x; f a/y", "f a/y; f a/x; w a/.wh.x"] {
        assert_eq!(shown(&["d a; f a/x; f a/z", upper]), "/ /a/ /a/x@2 /a/y@2 /a/z@1", "{upper}");
    }
    assert_eq!(shown(&["d a; d a/b; f a/b/c", "w .wh.a"]), "/");
    assert_eq!(shown(&["d a; f a/b", "w .wh.a; d a"]), "/ /a/");
    assert_eq!(shown(&["f b", "w .wh.nothing; w no/.wh.where"]), "/ /b@1");
}

#[test]
fn opaque_directories_hide_lower_children_only() {
    for upper in ["d a; w a/.wh..wh..opq; f a/new", "f a/new; w a/.wh..wh..opq"] {
        assert_eq!(shown(&["d a; f a/old", upper]), "/ /a/ /a/new@2", "{upper}");
    }
    // CONTRACT B.4, 14: upstream does nothing at the root.
    assert_eq!(shown(&["d a; f a/old; f b", "f c; w .wh..wh..opq"]), "/ /c@2");
}

#[test]
fn whiteouts_reach_through_lower_symlinks() {
    let lower = "d usr; d usr/lib; f usr/lib/x; l lib usr/lib";
    assert_eq!(shown(&[lower, "w lib/.wh.x"]), "/ /lib -> usr/lib /usr/ /usr/lib/");
    assert_eq!(shown(&[lower, "w lib/.wh..wh..opq"]), "/ /lib -> usr/lib /usr/ /usr/lib/");
    for upper in ["d lib; w lib/.wh.x", "w lib/.wh.x; d lib", "w lib/.wh..wh..opq; d lib"] {
        assert_eq!(shown(&[lower, upper]), "/ /lib/ /usr/ /usr/lib/ /usr/lib/x@1", "{upper}");
    }
}

#[test]
fn parents_resolve_through_symlinks_and_never_leave_the_root() {
    let lower =
        "d usr; d usr/lib; l lib usr/lib; l up ../../usr; l abs /usr/lib; d d; l d/r ../usr";
    for name in ["lib/f", "up/lib/f", "abs/f", "d/r/lib/f"] {
        let tree = shown(&[lower, &format!("f {name}")]);
        assert!(tree.contains("/usr/lib/f@2"), "{name}: {tree}");
    }
}

#[test]
fn missing_parents_are_made() {
    let nodes = try_merged(&["f a/b/c"]).unwrap();
    let made = node(&nodes, "/a/b").attr;
    assert_eq!((made.mode, made.uid, made.mtime, made.nlink), (0o040_755, 0, 0, 2));
    assert_eq!(node(&nodes, "/a").attr.nlink, 3);
    // As umoci does: where a dangling symlink points to.
    assert_eq!(shown(&["l q no/deep; f q/f"]), "/ /no/ /no/deep/ /no/deep/f@1 /q -> no/deep");
    assert_eq!(shown(&["d d; l d/q no/../../x; f d/q/f"]), "/ /d/ /d/q -> no/../../x /x/ /x/f@1");
}

#[test]
fn hard_links_share_an_inode_within_and_across_layers() {
    let nodes = try_merged(&["f f; h g f", "h h f"]).unwrap();
    let [f, g, h] = ["/f", "/g", "/h"].map(|path| node(&nodes, path));
    assert_eq!((f.attr, &f.kind), (g.attr, &g.kind));
    assert_eq!((f.attr, &f.kind), (h.attr, &h.kind));
    assert_eq!(f.attr.nlink, 3);
    // One name replaced: the others keep what they had.
    let nodes = try_merged(&["f f; h g f", "f f"]).unwrap();
    assert_ne!(node(&nodes, "/f").attr.ino, node(&nodes, "/g").attr.ino);
    assert_eq!(node(&nodes, "/g").attr.nlink, 1);
    assert_eq!(shown(&["f f; h g f", "w .wh.f"]), "/ /g@1");
    assert_eq!(
        shown(&["d usr; f usr/f; l l usr; h l/g l/f"]),
        "/ /l -> usr /usr/ /usr/f@1 /usr/g@1"
    );
}

#[test]
fn a_hard_link_to_a_symlink_is_that_symlink() {
    let nodes = try_merged(&["f f; l s f; h t s"]).unwrap();
    assert_eq!(node(&nodes, "/t").kind, node(&nodes, "/s").kind);
    assert_eq!(node(&nodes, "/t").attr.nlink, 2);
}

#[test]
fn inode_numbers_are_unlike() {
    let nodes = try_merged(&["f f; h g f; f f", "d d; f d/f; l d/l x; p d/p"]).unwrap();
    let mut numbers: Vec<_> = nodes.iter().map(|n| n.attr.ino).collect();
    numbers.sort_unstable();
    numbers.dedup();
    assert_eq!(numbers.len(), nodes.len());
}

#[test]
fn what_cannot_be_is_an_error_with_layer_and_path() {
    for (layers, expected) in [
        (vec!["f a; f a/b"], "/a/b: its parent \"a\" is not a directory"),
        (vec!["h a b"], "/a: hard link to /b, which is not there"),
        (vec!["d d; h a d"], "/a: hard link to /d, which is a directory"),
        (vec!["d a; f a/b", "h a a/b"], "/a: hard link to /a/b, which is not there"),
        (vec!["f a; h a a"], "/a: hard link to /a, which is not there"),
        (vec!["f a", "h / a"], "/: the root must be a directory"),
        (vec!["l a b; l b a; f a/x"], "/a/x: more than 255 symlinks on the way to it"),
    ] {
        let number = u8::try_from(layers.len()).unwrap();
        let error = try_merged(&layers).unwrap_err().to_string();
        assert_eq!(error, format!("layer {}: {expected}", Digest::of(&[number])));
    }
}

/// A few short symlinks, each onto the one before and a little further, make paths without end.
#[test]
fn symlinks_cannot_blow_a_path_up() {
    let deep = "d/".repeat(900);
    let mut lines = format!("f {deep}f; l l0 {deep}");
    for n in 1..40 {
        let last = n - 1;
        lines = format!("{lines};f l{last}/{deep}f; l l{n} l{last}/{deep}");
    }
    let limits = Limits { path_depth: u64::MAX, ..Limits::default() };
    let error =
        merge(&[layer(1, &lines)], &limits, &MemoryAccount::default()).unwrap_err().to_string();
    assert!(error.contains("clipwright.limits.pathBytes allows 4096"), "{error}");
}

/// An account pays for layers and tree together, and says when nothing is left.
#[tokio::test]
async fn what_all_have_together_is_the_last_limit() {
    let budget = MemoryBudget::new(2 << 20);
    let account = budget.together().await;
    let small = layer(1, "f a");
    small.charge(&account).unwrap();
    assert_eq!(budget.taken(), 1 << 20, "it pays in steps");
    merge([&small], &Limits::default(), &account).unwrap();
    assert_eq!(budget.taken(), 2 << 20);
    for error in [
        merge([&small], &Limits::default(), &account).unwrap_err(),
        small.charge(&account).unwrap_err(),
    ] {
        let LayerError::Limit { excess, .. } = &error else { panic!("{error}") };
        assert_eq!((excess.limit, excess.allowed), (Limit::MemoryBytes, 2 << 20), "{error}");
        assert!(error.to_string().contains("clipwright.limits.memoryMib"), "{error}");
    }
    drop(account);
    assert_eq!(budget.taken(), 0);
}

#[test]
fn each_limit_of_the_tree_has_its_error() {
    let limits = Limits { path_bytes: 8, path_depth: 3, nodes: 5, ..Limits::NONE };
    for (lines, place, limit) in [
        ("f 123456789", "123456789", Limit::PathBytes),
        ("l a 1/2/3; f a/f", "f", Limit::PathDepth),
        ("f a; f b; f c; f d; f e", "e", Limit::Nodes),
        ("f 1/2/3", "2", Limit::TreeBytes),
    ] {
        let limits = match limit {
            Limit::TreeBytes => Limits { tree_bytes: 2 * NODE_COST, ..limits },
            _ => limits,
        };
        let error = merge(&[layer(1, lines)], &limits, &MemoryAccount::default()).unwrap_err();
        let LayerError::Limit { excess, .. } = &error else { panic!("{error}") };
        assert_eq!(excess.limit, limit, "{error}");
        assert!(error.to_string().contains(&format!("{place:?}: ")), "{error}");
        assert!(error.to_string().contains(limit.row().key), "{error}");
    }
}

#[test]
fn one_layer_twice_is_no_trouble() {
    let layer = layer(1, "d a; f a/x; f b; h c b; w .wh.zzz");
    let once = merge([&layer], &Limits::default(), &MemoryAccount::default()).unwrap();
    assert_eq!(
        merge([&layer, &layer], &Limits::default(), &MemoryAccount::default()).unwrap(),
        once
    );
}

/// Names that sort before and after a slash, alone and behind one another.
fn path() -> impl Strategy<Value = String> {
    let name = "[a!/\\-.0z]{0,3}";
    proptest::collection::vec(name, 1..5).prop_map(|names| names.join("a/"))
}

proptest! {
    #[test]
    fn nodes_are_in_the_order_of_their_paths(paths in proptest::collection::vec(path(), 1..30)) {
        let lines: Vec<String> = paths.iter().map(|path| format!("d ./{path}")).collect();
        let nodes = merge(&[layer(1, &lines.join(";"))], &Limits::default(), &MemoryAccount::default()).unwrap();
        prop_assert!(nodes.is_sorted_by(|a, b| a.path < b.path), "{nodes:?}");
        // And none is lost: every directory has as many children as its links say.
        for node in &nodes {
            let is_child = |other: &&Node| other.path.parent().as_ref() == Some(&node.path);
            let children = nodes.iter().filter(is_child).count();
            prop_assert_eq!(node.attr.nlink as usize, 2 + children, "{}", node.path);
        }
        let expected: std::collections::BTreeSet<NodePath> = paths
            .iter()
            .map(|path| clean(path.as_bytes()).unwrap())
            .flat_map(|path| std::iter::successors(Some(path), NodePath::parent))
            .chain([NodePath::root()])
            .collect();
        prop_assert!(expected.iter().eq(nodes.iter().map(|node| &node.path)));
    }
}
