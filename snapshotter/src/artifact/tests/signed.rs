//! Archives that somebody vouches for, and those that only look like it.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use minisign::KeyPair;

use super::*;

/// A key pair in files, as `minisign -G` writes them.
struct Keys {
    dir: tempfile::TempDir,
}

impl Keys {
    fn new(password: Option<&str>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let pair = match password {
            Some(password) => KeyPair::generate_encrypted_keypair(Some(password.to_owned())),
            None => KeyPair::generate_unencrypted_keypair(),
        };
        let pair = pair.unwrap();
        fs::write(dir.path().join("secret"), pair.sk.to_box(None).unwrap().into_string()).unwrap();
        fs::write(dir.path().join("author.pub"), pair.pk.to_box().unwrap().into_string()).unwrap();
        Self { dir }
    }

    fn public(&self) -> PathBuf {
        self.dir.path().join("author.pub")
    }

    fn signing(&self) -> SigningKey {
        SigningKey::open(&self.dir.path().join("secret"), None).unwrap()
    }

    fn trust(&self) -> Trust {
        Trust::Signed(TrustedKeys::of_directory(self.dir.path()).unwrap())
    }
}

/// Everything of a shop, signed.
fn signed(shop: &Shop, keys: &Keys, names: &[&str]) -> Vec<u8> {
    let lineages = names.iter().flat_map(|name| shop.store.lineage(shop.named(name).id()).unwrap());
    let mut archive = Vec::new();
    let mut image = |image: &ImageRef| shop.store.image(image).ok();
    export(&mut archive, &lineages.collect::<Vec<_>>(), &mut image, Some(&keys.signing())).unwrap();
    archive
}

fn take(shop: &Shop, archive: &[u8], trust: &Trust) -> Result<Imported, ArtifactError> {
    Archive::open(&shop.file(archive), trust)?.into_store(&shop.store)
}

/// What a refusal says; nothing was taken in.
fn refusal(archive: &[u8], trust: &Trust) -> String {
    let other = Shop::empty();
    let error = take(&other, archive, trust).unwrap_err();
    assert!(other.store.tree().unwrap().is_empty(), "{error}");
    error.to_string()
}

/// The members of an archive, to be changed and put together again.
fn members(archive: &[u8]) -> Vec<(String, Vec<u8>)> {
    let mut members = Vec::new();
    let mut reader = tar::Archive::new(Cursor::new(archive));
    for entry in reader.entries().unwrap() {
        let mut entry = entry.unwrap();
        let name = entry.path().unwrap().to_str().unwrap().to_owned();
        let mut content = Vec::new();
        entry.read_to_end(&mut content).unwrap();
        members.push((name, content));
    }
    members
}

fn archive(members: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut archive = Vec::new();
    for (name, content) in members {
        archive.extend_from_slice(&header(name, content.len() as u64));
        archive.extend_from_slice(content);
        archive.extend_from_slice(padding(content.len() as u64));
    }
    archive.extend_from_slice(&END);
    archive
}

#[test]
fn what_a_trusted_key_signed_is_taken_in() {
    let (shop, keys) = (Shop::new(), Keys::new(None));
    let archive = signed(&shop, &keys, &["leaf", "right"]);
    let other = Shop::empty();
    assert_eq!(take(&other, &archive, &keys.trust()).unwrap().added.len(), 4);
    other.is_whole();
    // One of several keys, named as files.
    let stranger = Keys::new(None);
    let files = TrustedKeys::of_files(&[stranger.public(), keys.public()]).unwrap();
    assert!(take(&Shop::empty(), &archive, &Trust::Signed(files)).is_ok());
    // Who does not ask gets what he always got.
    assert!(take(&Shop::empty(), &archive, &Trust::Anybody).is_ok());
}

#[test]
fn nobody_is_trusted_unasked() {
    let (shop, keys) = (Shop::new(), Keys::new(None));
    let unsigned = refusal(&shop.export(&["leaf"]).0, &keys.trust());
    assert!(unsigned.contains("not signed") && unsigned.contains("--allow-unsigned"), "{unsigned}");
    let archive = signed(&shop, &keys, &["leaf"]);
    let nobody = Trust::Signed(TrustedKeys::of_directory(Path::new("/nonexistent/keys.d")).unwrap());
    let text = refusal(&archive, &nobody);
    assert!(text.contains("/nonexistent/keys.d") && text.contains("--key"), "{text}");
    // Its signature without the list, and the list without its signature.
    for missing in ["seuss-snapshots.txt", "seuss-snapshots.txt.minisig"] {
        let mut rest = members(&archive);
        rest.retain(|(name, _)| name != missing);
        assert!(refusal(&self::archive(&rest), &keys.trust()).contains("not signed"), "{missing}");
    }
}

#[test]
fn another_key_is_refused_by_its_number() {
    let (shop, keys, stranger) = (Shop::new(), Keys::new(None), Keys::new(None));
    let text = refusal(&signed(&shop, &stranger, &["leaf"]), &keys.trust());
    assert!(text.contains(&stranger.signing().id()) && text.contains("none of the 1 trusted"), "{text}");
    // A key that was given the number of a trusted one.
    let mut forged = minisign::PublicKeyBox::from_string(&fs::read_to_string(stranger.public()).unwrap())
        .unwrap()
        .into_public_key()
        .unwrap()
        .to_bytes();
    let mine = minisign::PublicKeyBox::from_string(&fs::read_to_string(keys.public()).unwrap())
        .unwrap()
        .into_public_key()
        .unwrap()
        .to_bytes();
    forged[2..10].copy_from_slice(&mine[2..10]);
    let forged = minisign::PublicKey::from_bytes(&forged).unwrap().to_box().unwrap().into_string();
    fs::write(stranger.public(), forged).unwrap();
    let text = refusal(&signed(&shop, &keys, &["leaf"]), &stranger.trust());
    assert!(text.contains("does not fit"), "{text}");
}

#[test]
fn every_changed_byte_is_found() {
    let (shop, keys) = (Shop::new(), Keys::new(None));
    let whole = members(&signed(&shop, &keys, &["leaf"]));
    let trust = keys.trust();
    for (at, (name, content)) in whole.iter().enumerate() {
        // The list, its signature and the documents: every byte. What is large: some.
        let step = content.len().div_ceil(40).max(1);
        for byte in (0..content.len()).step_by(step) {
            let mut changed = whole.clone();
            changed[at].1[byte] ^= 1;
            let other = Shop::empty();
            let outcome = take(&other, &archive(&changed), &trust);
            // Names and untrusted comments are for people, the empty configuration is not read; a working set is a hint, and one that is damaged is none.
            let documents = name == "oci-layout" || name == "index.json" || name.ends_with(".minisig");
            let harmless = documents || content == b"{}";
            match outcome {
                Err(_) => {}
                Ok(_) if harmless => other.is_whole(),
                Ok(_) => {
                    let leaf = shop.named("leaf");
                    let hint = leaf.working_set_bytes().is_some_and(|bytes| bytes == *content);
                    assert!(hint, "byte {byte} of {name}");
                }
            }
            let known: Vec<_> = shop.store.tree().unwrap().iter().map(|node| node.id).collect();
            let taken = other.store.tree().unwrap();
            assert!(taken.iter().all(|node| known.contains(&node.id)), "byte {byte} of {name}");
        }
    }
}

#[test]
fn a_signature_vouches_for_no_other_archive() {
    let (mine, theirs, keys) = (Shop::new(), Shop::empty(), Keys::new(None));
    theirs.make(None, "evil", 9);
    let evil = theirs.export(&["evil"]).0;
    // The good list and signature, over other snapshots.
    let good = members(&signed(&mine, &keys, &["leaf"]));
    let vouching: Vec<_> =
        good.iter().filter(|(name, _)| name.starts_with("seuss-snapshots")).cloned().collect();
    let mut mixed = members(&evil);
    mixed.extend(vouching.clone());
    let text = refusal(&archive(&mixed), &keys.trust());
    assert!(text.contains("not among those that were signed"), "{text}");
    // One of theirs smuggled in among the good ones: nothing is taken in.
    let index = |members: &[(String, Vec<u8>)]| {
        let (_, bytes) = members.iter().find(|(name, _)| name == "index.json").unwrap();
        serde_json::from_slice::<serde_json::Value>(bytes).unwrap()
    };
    let mut both = index(&good);
    let extra = index(&members(&evil))["manifests"][0].clone();
    both["manifests"].as_array_mut().unwrap().push(extra);
    let mut smuggled = good.clone();
    smuggled.iter_mut().find(|(name, _)| name == "index.json").unwrap().1 = both.to_string().into_bytes();
    smuggled.extend(members(&evil).into_iter().filter(|(name, _)| name.starts_with("blobs/")));
    let text = refusal(&archive(&smuggled), &keys.trust());
    assert!(text.contains("not among those that were signed"), "{text}");
    // A part of what was signed is the author's as well.
    let mut fewer = members(&signed(&mine, &keys, &["base"]));
    fewer.retain(|(name, _)| !name.starts_with("seuss-snapshots"));
    fewer.extend(vouching);
    assert_eq!(take(&Shop::empty(), &archive(&fewer), &keys.trust()).unwrap().added.len(), 1);
    // Something else that the author has signed is no list.
    let text = b"I like snapshots\n";
    let other = minisign::sign(
        None,
        &minisign::SecretKeyBox::from_string(&fs::read_to_string(keys.dir.path().join("secret")).unwrap())
            .unwrap()
            .into_unencrypted_secret_key()
            .unwrap(),
        Cursor::new(text),
        None,
        None,
    );
    let mut talk = members(&evil);
    talk.push(("seuss-snapshots.txt".into(), text.to_vec()));
    talk.push(("seuss-snapshots.txt.minisig".into(), other.unwrap().into_string().into_bytes()));
    assert!(refusal(&archive(&talk), &keys.trust()).contains("no list of snapshots"));
}

#[test]
fn keys_that_others_can_change_are_not_trusted() {
    let keys = Keys::new(None);
    fs::set_permissions(keys.public(), fs::Permissions::from_mode(0o666)).unwrap();
    let error = TrustedKeys::of_directory(keys.dir.path()).unwrap_err();
    assert!(matches!(error, KeyError::Open { mode: 0o666, .. }), "{error}");
    fs::set_permissions(keys.public(), fs::Permissions::from_mode(0o644)).unwrap();
    fs::write(keys.public(), "nonsense").unwrap();
    let error = TrustedKeys::of_files(&[keys.public()]).unwrap_err();
    assert!(matches!(error, KeyError::Format { what: "public", .. }), "{error}");
    // What is in the directory beside keys does not matter.
    fs::rename(keys.public(), keys.dir.path().join("author.txt")).unwrap();
    assert!(TrustedKeys::of_directory(keys.dir.path()).unwrap().is_empty());
}

#[test]
fn secret_keys_with_passwords() {
    let keys = Keys::new(Some("correct horse"));
    let path = keys.dir.path().join("secret");
    assert!(SigningKey::open(&path, Some("battery staple".into())).is_err());
    let key = SigningKey::open(&path, Some("correct horse".into())).unwrap();
    let shop = Shop::new();
    let mut archive = Vec::new();
    export(&mut archive, &[shop.named("base")], &mut |_| None, Some(&key)).unwrap();
    assert!(Archive::open(&shop.file(&archive), &keys.trust()).is_ok());
}
