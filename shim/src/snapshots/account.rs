//! Whose pod it is, beside its namespace: the service account, as the token says that the kubelet has mounted.
//!
//! A token is a JSON Web Token (RFC 7519) whose claims name the account ("Bound service account tokens" of the Kubernetes documentation). The file comes from the
//! kubelet, so its signature is not looked at: who can write it can write everything that the pod is made of. A token that cannot be read stands for itself alone.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use seuss_abi::spec::InjectedFile;
use seuss_snapshotter::snapshot::store::sha256;

use super::key::IDENTITY_DIRS;

#[derive(Deserialize)]
struct Claims {
    /// Who has signed it: a cluster.
    iss: String,
    /// `system:serviceaccount:NAMESPACE:NAME`.
    sub: String,
    #[serde(default, rename = "kubernetes.io")]
    kubernetes: Bound,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Bound {
    serviceaccount: Account,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Account {
    /// Differs where an account was deleted and another one of that name was made.
    uid: String,
}

/// What tells the service account of a pod with these mounted files; empty where no token is mounted.
pub(super) fn of(files: &[InjectedFile]) -> Vec<Vec<u8>> {
    let is_token =
        |file: &&InjectedFile| IDENTITY_DIRS.iter().any(|dir| file.path.strip_prefix(*dir) == Some(b"token"));
    files.iter().filter(is_token).flat_map(|file| told_by(&file.content)).collect()
}

fn told_by(token: &[u8]) -> Vec<Vec<u8>> {
    match claims(token) {
        Some(claims) => {
            [claims.iss, claims.sub, claims.kubernetes.serviceaccount.uid].map(String::into_bytes).into()
        }
        None => vec![sha256(token).to_vec()],
    }
}

fn claims(token: &[u8]) -> Option<Claims> {
    let mut parts = token.trim_ascii().split(|byte| *byte == b'.');
    let [_, payload, _] = [parts.next()?, parts.next()?, parts.next()?];
    if parts.next().is_some() {
        return None;
    }
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(payload: &str, signature: &str) -> Vec<u8> {
        format!("e30.{}.{signature}", URL_SAFE_NO_PAD.encode(payload)).into_bytes()
    }

    fn account(token: &[u8]) -> Vec<Vec<u8>> {
        let path = [IDENTITY_DIRS[0], b"token"].concat();
        of(&[InjectedFile { path, mode: 0o644, read_only: true, content: token.to_vec() }])
    }

    #[test]
    fn tokens_of_one_account_are_alike() {
        let claims = |pod: &str, account: &str, uid: &str| {
            format!(
                r#"{{"iss":"https://cluster","sub":"system:serviceaccount:shop:{account}","exp":1,
                    "kubernetes.io":{{"pod":{{"name":"{pod}"}},"serviceaccount":{{"name":"{account}","uid":"{uid}"}}}}}}"#
            )
        };
        let known = account(&token(&claims("a", "cart", "1"), "x"));
        assert_eq!(known, account(&token(&claims("b", "cart", "1"), "y")), "another pod of the same account");
        assert_ne!(known, account(&token(&claims("a", "till", "1"), "x")));
        assert_ne!(known, account(&token(&claims("a", "cart", "2"), "x")), "the account was made anew");
        assert!(of(&[]).is_empty());
    }

    #[test]
    fn what_is_no_token_stands_for_itself() {
        for text in [
            &b"secret"[..],
            b"",
            b"a.b.c",
            b"a.b",
            b"....",
            b"\xff.\xff.\xff",
            &token("[]", "x"),
            &token("{}", "x"),
        ] {
            let known = account(text);
            assert_eq!(known.len(), 1, "{text:?}");
            assert_ne!(known, account(&[text, b"2"].concat()), "{text:?}");
        }
    }
}
