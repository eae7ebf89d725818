//! Layers, paths, permissions, and what changing the tree does.

use super::*;
use crate::errno::Errno;
use crate::fs::change::RenameFlags;
use crate::fs::file::{Whence, flags};
use crate::mem::pager::{MappedPage, Pager};

fn layers() -> Vec<Item> {
    let base = Item::dir(vec![
        ("bin", Item::link("usr/bin")),
        ("usr", Item::dir(vec![("bin", Item::dir(vec![("sh", Item::file(b"shell").mode(0o755))]))])),
        ("etc", Item::dir(vec![("passwd", Item::file(b"root")), ("old", Item::file(b"old"))])),
        ("data", Item::dir(vec![("base", Item::file(b"base"))])),
        ("a", Item::file(b"linked").hard(1)),
        ("b", Item::file(b"linked").hard(1)),
        ("tmp", Item::dir(vec![]).mode(0o1777)),
        ("private", Item::dir(vec![("key", Item::file(b"k").mode(0o600))]).mode(0o700)),
    ]);
    let top = Item::dir(vec![
        ("etc", Item::dir(vec![("old", Item::whiteout()), ("passwd", Item::file(b"root2"))])),
        ("data", Item::dir(vec![("top", Item::file(b"top"))]).opaque()),
        ("usr", Item::dir(vec![("lib", Item::dir(vec![]))])),
        ("bin2", Item::link("bin2/x")),
    ]);
    vec![base, top]
}

#[test]
fn layers_merge_as_overlayfs_does() {
    let world = World::new(&layers());
    assert_eq!(world.content("/etc/passwd").unwrap(), b"root2");
    assert_eq!(world.content("/etc/old"), Err(Errno::ENOENT));
    assert_eq!(world.content("/data/base"), Err(Errno::ENOENT));
    assert_eq!(world.content("bin/sh").unwrap(), b"shell");
    assert_eq!(world.names("/etc").unwrap(), ["passwd"]);
    assert_eq!(world.names("/data").unwrap(), ["top"]);
    assert_eq!(world.names("/usr").unwrap(), ["bin", "lib"]);
    let context = world.context();
    assert_eq!(context.walk(&context.cwd, b"/usr", true).unwrap().stat().nlink, 4);
    assert_eq!(context.walk(&context.cwd, b"/bin2", true).unwrap_err(), Errno::ELOOP);
}

#[test]
fn paths_resolve_as_the_manual_says() {
    let world = World::new(&layers());
    let context = world.context();
    let walk = |path: &str, follow| context.walk(&context.cwd, path.as_bytes(), follow);
    let ino = |path: &str| walk(path, true).map(|node| node.ino());
    assert_eq!(ino("/usr/bin"), ino("//usr///bin/"));
    assert_eq!(ino("/"), ino("/../.."));
    assert_eq!(ino("/bin/../lib"), ino("/usr/lib"));
    assert!(walk("/bin", false).unwrap().is_symlink());
    assert!(walk("/bin/", false).unwrap().is_directory());
    assert_eq!(ino(""), Err(Errno::ENOENT));
    assert_eq!(ino("/etc/passwd/"), Err(Errno::ENOTDIR));
    assert_eq!(ino("/etc/passwd/x"), Err(Errno::ENOTDIR));
    assert_eq!(ino("/etc/passwd/.."), Err(Errno::ENOTDIR));
    assert_eq!(ino(&"x".repeat(256)), Err(Errno::ENAMETOOLONG));
    assert_eq!(ino(&"x".repeat(255)), Err(Errno::ENOENT));
    let node = walk("/bin/sh", true).unwrap();
    assert_eq!(node.path(&world.root).unwrap(), b"/usr/bin/sh");
    assert_eq!(Pager::name(&*node), b"/usr/bin/sh");
    assert_eq!(world.root.path(&world.root).unwrap(), b"/");
    // A root of its own: `..` stops there.
    world.process.place.set_root(walk("/usr", true).unwrap());
    let jailed = world.context();
    assert!(jailed.walk(&jailed.cwd, b"/../../bin/sh", true).is_ok());
    assert_eq!(jailed.walk(&jailed.cwd, b"/etc", true).unwrap_err(), Errno::ENOENT);
}

#[test]
fn links_are_followed_forty_times() {
    let world = World::new(&[Item::dir(vec![("f", Item::file(b"f"))])]);
    let context = world.context();
    context.make_symlink(&context.cwd, b"l0", b"f").unwrap();
    for n in 1..=40 {
        let (name, target) = (format!("l{n}"), format!("l{}", n - 1));
        context.make_symlink(&context.cwd, name.as_bytes(), target.as_bytes()).unwrap();
    }
    assert!(context.walk(&context.cwd, b"l39", true).is_ok());
    assert_eq!(context.walk(&context.cwd, b"l40", true).unwrap_err(), Errno::ELOOP);
    assert_eq!(context.open(&context.cwd, b"l0", flags::O_NOFOLLOW, 0).unwrap_err(), Errno::ELOOP);
    context.make_symlink(&context.cwd, b"dangling", b"made").unwrap();
    let file = context.open(&context.cwd, b"dangling", flags::O_CREAT | flags::O_RDWR, 0o666).unwrap();
    assert_eq!(file.node().path(&world.root).unwrap(), b"/made");
    assert_eq!(file.node().mode(), 0o100_644);
    let exclusive = flags::O_CREAT | flags::O_EXCL;
    assert_eq!(context.open(&context.cwd, b"dangling", exclusive, 0).unwrap_err(), Errno::EEXIST);
}

#[test]
fn files_move_into_frames_page_by_page() {
    let content: Vec<u8> = (0..3 * 4096 + 100u32).map(|n| (n % 251) as u8).collect();
    let world = World::new(&[Item::dir(vec![("f", Item::file(&content))])]);
    let context = world.context();
    let before = world.env.frames.available();
    assert_eq!(world.write("/f", 4096 + 5, b"hello").unwrap(), 5);
    assert_eq!(before - world.env.frames.available(), 1);
    let mut want = content.clone();
    want[4101..4106].copy_from_slice(b"hello");
    assert_eq!(world.content("/f").unwrap(), want);
    let node = context.walk(&context.cwd, b"f", true).unwrap();
    assert!(matches!(node.page(0, false), Ok(MappedPage::Image(_))));
    assert!(matches!(node.page(1, false), Ok(MappedPage::Frame(_))));
    assert!(matches!(node.page(3, false), Ok(MappedPage::Image(_))));
    assert!(matches!(node.page(4, false), Ok(MappedPage::BeyondEnd)));
    assert!(matches!(node.page(0, true), Ok(MappedPage::Frame(_))));
    assert!(matches!(node.page(0, false), Ok(MappedPage::Frame(_))));
    // Cut within a lower page, then grow: what was cut is gone.
    context.truncate(&node, 2 * 4096 + 10).unwrap();
    context.truncate(&node, 3 * 4096).unwrap();
    want.truncate(2 * 4096 + 10);
    want.resize(3 * 4096, 0);
    assert_eq!(world.content("/f").unwrap(), want);
    assert!(matches!(node.page(2, false), Ok(MappedPage::Frame(_))));
}

#[test]
fn holes_and_data_are_found() {
    let world = World::new(&[Item::dir(vec![("f", Item::file(&[1; 8192]))])]);
    world.write("/f", 5 * 4096, b"x").unwrap();
    let context = world.context();
    let file = context.open(&context.cwd, b"f", flags::O_RDWR, 0).unwrap();
    let seek = |at, whence| file.seek(at, whence);
    assert_eq!(seek(10, Whence::Data), Ok(10));
    assert_eq!(seek(10, Whence::Hole), Ok(8192));
    assert_eq!(seek(8192, Whence::Data), Ok(5 * 4096));
    assert_eq!(seek(5 * 4096, Whence::Hole), Ok(5 * 4096 + 1));
    assert_eq!(seek(5 * 4096 + 1, Whence::Data), Err(Errno::ENXIO));
    assert_eq!(file.node().stat().blocks, 3 * 8);
    let zero = crate::fs::file::Allocation::Zero { keep_size: true };
    file.ops().allocate(&file, 100, 8092, zero).unwrap();
    assert_eq!(seek(0, Whence::Hole), Ok(4096));
    let content = world.content("/f").unwrap();
    assert_eq!(content[..100], [1; 100]);
    assert!(content[100..5 * 4096].iter().all(|byte| *byte == 0));
}

proptest::proptest! {
    #[test]
    fn a_file_is_an_array_of_bytes(
        lower in 0usize..20_000,
        steps in proptest::collection::vec((0u8..5, 0u64..40_000, 0usize..9000), 1..40),
    ) {
        let mut model: Vec<u8> = (0..lower).map(|at| (at % 251) as u8 + 1).collect();
        let world = World::new(&[Item::dir(vec![("f", Item::file(&model))])]);
        let context = world.context();
        let file = context.open(&context.cwd, b"f", flags::O_RDWR, 0).unwrap();
        let data = file.node().data().unwrap();
        for (step, (kind, at, len)) in steps.into_iter().enumerate() {
            let end = at as usize + len;
            match kind {
                0 | 1 => {
                    let bytes = vec![step as u8 + 100; len];
                    proptest::prop_assert_eq!(file.write_at(at, &mut &bytes[..]), Ok(len));
                    if len > 0 {
                        model.resize(model.len().max(end), 0);
                        model[at as usize..end].copy_from_slice(&bytes);
                    }
                }
                2 => {
                    file.ops().truncate(&file, at).unwrap();
                    model.resize(at as usize, 0);
                }
                3 => {
                    let how = crate::fs::file::Allocation::Zero { keep_size: true };
                    file.ops().allocate(&file, at, len as u64, how).unwrap();
                    let (from, to) = ((at as usize).min(model.len()), end.min(model.len()));
                    model[from..to].fill(0);
                }
                _ => drop(file.node().page(at / 4096, len % 2 == 0).unwrap()),
            }
            let mut bytes = vec![0; model.len() + 10];
            proptest::prop_assert_eq!(file.read_kernel(0, &mut bytes), Ok(model.len()));
            proptest::prop_assert_eq!(&bytes[..model.len()], &model[..]);
            proptest::prop_assert_eq!(data.pages_used(), data.count_pages());
        }
    }
}

#[test]
fn hard_links_of_a_layer_are_one_node() {
    let world = World::new(&layers());
    let context = world.context();
    world.write("/a", 0, b"LINK").unwrap();
    context.unlink(&context.cwd, b"/a").unwrap();
    assert_eq!(world.content("/b").unwrap(), b"LINKed");
    assert_eq!(context.walk(&context.cwd, b"/b", true).unwrap().stat().nlink, 1);
}

#[test]
fn directories_of_layers_can_be_renamed_and_made_anew() {
    let world = World::new(&layers());
    let context = world.context();
    let cwd = &context.cwd;
    let rename =
        |from: &str, to: &str, flags| context.rename((cwd, from.as_bytes()), (cwd, to.as_bytes()), flags);
    let plain = RenameFlags::default();
    rename("/usr", "/opt", plain).unwrap();
    assert_eq!(world.content("/opt/bin/sh").unwrap(), b"shell");
    assert_eq!(world.content("/bin/sh"), Err(Errno::ENOENT));
    context.make_directory(cwd, b"/usr", 0o777).unwrap();
    assert_eq!(world.names("/usr").unwrap(), Vec::<String>::new());
    assert_eq!(rename("/opt", "/opt/bin/x", plain), Err(Errno::EINVAL));
    assert_eq!(rename("/usr", "/opt", plain), Err(Errno::ENOTEMPTY));
    assert_eq!(rename("/etc/passwd", "/usr", plain), Err(Errno::EISDIR));
    assert_eq!(rename("/usr", "/etc/passwd", plain), Err(Errno::ENOTDIR));
    assert_eq!(rename("/usr", "/opt", RenameFlags { no_replace: true, exchange: false }), Err(Errno::EEXIST));
    rename("/usr", "/opt", RenameFlags { no_replace: false, exchange: true }).unwrap();
    assert_eq!(world.content("/bin/sh").unwrap(), b"shell");
    assert_eq!(context.remove_directory(cwd, b"/usr"), Err(Errno::ENOTEMPTY));
    context.remove_directory(cwd, b"/opt").unwrap();
    let sh = context.walk(cwd, b"/bin/sh", true).unwrap();
    assert_eq!(sh.path(&world.root).unwrap(), b"/usr/bin/sh");
}

#[test]
fn removed_nodes_live_while_they_are_open() {
    let world = World::new(&layers());
    let context = world.context();
    let file = context.open(&context.cwd, b"/etc/passwd", flags::O_RDWR, 0).unwrap();
    context.unlink(&context.cwd, b"/etc/passwd").unwrap();
    assert_eq!(world.content("/etc/passwd"), Err(Errno::ENOENT));
    let mut bytes = [0; 8];
    assert_eq!(file.read_kernel(0, &mut bytes), Ok(5));
    assert_eq!(file.node().path(&world.root).unwrap(), b"/etc/passwd (deleted)");
    assert_eq!(file.node().stat().nlink, 0);
    assert_eq!(context.link(file.node(), &context.cwd, b"/etc/new", false), Err(Errno::ENOENT));
    // A working directory that is gone.
    let gone = context.make_directory(&context.cwd, b"/tmp/gone", 0o777).unwrap();
    world.process.place.set_cwd(gone.clone());
    context.remove_directory(&context.cwd, b"/tmp/gone").unwrap();
    let context = world.context();
    assert_eq!(context.open(&context.cwd, b"x", 0o101, 0o666).unwrap_err(), Errno::ENOENT);
    assert!(context.walk(&context.cwd, b"..", true).is_ok());
    assert_eq!(context.walk(&context.cwd, b".", true).unwrap().nlink(), 0);
}

#[test]
fn permissions_are_checked() {
    let world = World::new(&layers());
    let user = world.as_user(Subject { uid: 1000, gid: 1000, groups: &[44] });
    let root = world.context();
    let cwd = &user.cwd;
    assert_eq!(user.walk(cwd, b"/private/key", true).unwrap_err(), Errno::EACCES);
    assert_eq!(user.open(cwd, b"/etc/new", 0o101, 0o666).unwrap_err(), Errno::EACCES);
    assert_eq!(user.open(cwd, b"/etc/passwd", 1, 0).unwrap_err(), Errno::EACCES);
    assert_eq!(user.unlink(cwd, b"/etc/passwd").unwrap_err(), Errno::EACCES);
    let mine = user.open(cwd, b"/tmp/mine", 0o102, 0o666).unwrap();
    assert_eq!((mine.node().uid(), mine.node().gid(), mine.node().mode()), (1000, 1000, 0o100_644));
    let other = world.as_user(Subject { uid: 1001, gid: 1001, groups: &[] });
    assert_eq!(other.unlink(cwd, b"/tmp/mine"), Err(Errno::EPERM));
    assert_eq!(other.set_mode(mine.node(), 0o777), Err(Errno::EPERM));
    assert_eq!(user.set_owner(mine.node(), None, Some(7)), Err(Errno::EPERM));
    user.set_owner(mine.node(), None, Some(44)).unwrap();
    assert_eq!(user.set_owner(mine.node(), Some(1001), None), Err(Errno::EPERM));
    // A file that its maker may not read: the description that made it may.
    let odd = user.open(cwd, b"/tmp/odd", 0o102, 0).unwrap();
    assert!(odd.write(&mut &b"x"[..]).is_ok());
    assert_eq!(user.open(cwd, b"/tmp/odd", 0, 0).unwrap_err(), Errno::EACCES);
    assert!(root.open(cwd, b"/tmp/odd", 0, 0).is_ok());
    assert_eq!(root.subject.check(odd.node(), crate::fs::Access::EXECUTE), Err(Errno::EACCES));
}

#[test]
fn a_read_only_root_refuses_every_change() {
    let world = World::new(&layers());
    world.root.fs().read_only.set(true);
    let context = world.context();
    let cwd = &context.cwd;
    assert_eq!(context.open(cwd, b"/etc/passwd", 1, 0).unwrap_err(), Errno::EROFS);
    assert_eq!(context.open(cwd, b"/new", 0o101, 0).unwrap_err(), Errno::EROFS);
    assert_eq!(context.unlink(cwd, b"/etc/passwd"), Err(Errno::EROFS));
    assert_eq!(context.make_directory(cwd, b"/d", 0).unwrap_err(), Errno::EROFS);
    assert_eq!(context.make_directory(cwd, b"/etc", 0).unwrap_err(), Errno::EEXIST);
    let passwd = context.walk(cwd, b"/etc/passwd", true).unwrap();
    assert_eq!(context.set_mode(&passwd, 0), Err(Errno::EROFS));
    assert_eq!(context.truncate(&passwd, 0), Err(Errno::EROFS));
    assert!(world.content("/etc/passwd").is_ok());
}

#[test]
fn unused_nodes_are_dropped_and_found_again() {
    let names: Vec<String> = (0..250).map(|n| format!("f{n:03}")).collect();
    let directory =
        Item::dir(names.iter().map(|name| (name.as_str(), Item::file(name.as_bytes()))).collect());
    let world = World::new(&[Item::dir(vec![("d", directory)])]);
    let overlay = world.root.fs().overlay.as_ref().unwrap();
    overlay.set_sweep_at(100);
    let context = world.context();
    let held = context.walk(&context.cwd, b"/d/f007", true).unwrap();
    context.set_mode(&context.walk(&context.cwd, b"/d/f008", true).unwrap(), 0o600).unwrap();
    let ino = context.walk(&context.cwd, b"/d/f009", true).unwrap().ino();
    for name in &names {
        world.content(&format!("/d/{name}")).unwrap();
        assert!(overlay.cached() <= 101);
    }
    assert!(Rc::ptr_eq(&held, &context.walk(&context.cwd, b"/d/f007", true).unwrap()));
    assert_eq!(context.walk(&context.cwd, b"/d/f008", true).unwrap().mode(), 0o100_600);
    assert_eq!(context.walk(&context.cwd, b"/d/f009", true).unwrap().ino(), ino);
    assert_eq!(world.names("/d").unwrap(), names);
}

#[test]
fn memory_that_runs_out_is_enospc() {
    let world = World::with_memory(&[Item::dir(vec![])], 100);
    let big = vec![1; 4096 * 90];
    let written = world.write("/big", 0, &big).unwrap();
    assert!(written < big.len() || world.env.frames.available() < 64);
    assert_eq!(world.write("/other", 0, b"x"), Err(Errno::ENOSPC));
    let context = world.context();
    context.unlink(&context.cwd, b"/big").unwrap();
    assert!(world.write("/other", 0, b"x").is_ok());
}

#[test]
fn listings_survive_removal_and_continue_where_they_stopped() {
    let world = World::new(&[Item::dir(vec![(
        "d",
        Item::dir(vec![("a", Item::file(b"")), ("c", Item::file(b""))]),
    )])]);
    world.write("/d/b", 0, b"").unwrap();
    let context = world.context();
    let file = context.open(&context.cwd, b"d", 0, 0).unwrap();
    let mut seen = vec![];
    loop {
        let before = seen.len();
        file.ops()
            .list(&file, &mut |entry, _| {
                let room = seen.len() == before;
                if room {
                    seen.push(String::from_utf8(entry.name.to_vec()).unwrap());
                }
                room
            })
            .unwrap();
        if seen.len() == before {
            break;
        }
        let name = seen.last().unwrap();
        if !name.starts_with('.') {
            context.unlink(&context.cwd, format!("/d/{name}").as_bytes()).unwrap();
        }
    }
    assert_eq!(seen, [".", "..", "a", "b", "c"]);
    context.remove_directory(&context.cwd, b"/d").unwrap();
    assert_eq!(file.ops().list(&file, &mut |_, _| true), Err(Errno::ENOENT));
}
