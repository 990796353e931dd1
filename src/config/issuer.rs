//! Settings of the product's own tokens: who issues them, and what they say.

use std::collections::BTreeMap;

use clap::Args;
use reqwest::Url;

use super::{ConfigError, given, is_loopback};

/// The roles that a token can give. Operators log in here.
const ROLES: [&str; 3] = ["owner", "billing_manager", "member"];

const ORGANIZATION_CLAIM: &str = "org_id";
const ROLE_CLAIM: &str = "role";

#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Tokens")]
pub struct IssuerArgs {
    /// Where the issuer of the product's access tokens (JWTs) publishes its public
    /// keys; unset: only our own tokens and keys are accepted.
    #[arg(long, env = "AUTH_JWKS_URL")]
    auth_jwks_url: Option<String>,
    /// The tokens' `iss`, to the letter.
    #[arg(long, env = "AUTH_ISSUER")]
    auth_issuer: Option<String>,
    /// What the tokens' `aud` is or has: the name of this service at the issuer.
    #[arg(long, env = "AUTH_AUDIENCE")]
    auth_audience: Option<String>,
    /// The claim that names the organization, by its external id or id; with a
    /// slash in front, a JSON pointer. Unset: org_id.
    #[arg(long, env = "AUTH_ORGANIZATION_CLAIM")]
    auth_organization_claim: Option<String>,
    /// The claim with the user's role, or roles; written likewise. Unset: role.
    #[arg(long, env = "AUTH_ROLE_CLAIM")]
    auth_role_claim: Option<String>,
    /// What the issuer's roles are here, such as admin=owner,finance=billing_manager;
    /// unset: owner, billing_manager and member by their own names.
    #[arg(long, env = "AUTH_ROLES")]
    auth_roles: Option<String>,
}

/// Whose tokens are accepted, and what is read in them.
#[derive(Debug, Clone)]
pub struct IssuerConfig {
    pub jwks_url: Url,
    pub issuer: String,
    pub audience: String,
    pub organization_claim: String,
    pub role_claim: String,
    /// From the issuer's names of roles to ours.
    pub roles: BTreeMap<String, String>,
}

impl IssuerArgs {
    /// `None`: no tokens but our own are accepted.
    pub fn check(&self) -> Result<Option<IssuerConfig>, ConfigError> {
        let required = [
            ("AUTH_JWKS_URL", given(self.auth_jwks_url.as_deref())),
            ("AUTH_ISSUER", given(self.auth_issuer.as_deref())),
            ("AUTH_AUDIENCE", given(self.auth_audience.as_deref())),
        ];
        let optional = [
            (
                "AUTH_ORGANIZATION_CLAIM",
                given(self.auth_organization_claim.as_deref()),
            ),
            ("AUTH_ROLE_CLAIM", given(self.auth_role_claim.as_deref())),
            ("AUTH_ROLES", given(self.auth_roles.as_deref())),
        ];
        let mut all = required.iter().chain(&optional);
        let Some((set, _)) = all.find(|(_, value)| value.is_some()) else {
            return Ok(None);
        };
        let [url, issuer, audience] = required.map(|(variable, value)| {
            let missing = || {
                let problem = format!(
                    "is required with {set}: tokens are accepted only where AUTH_JWKS_URL, \
                     AUTH_ISSUER and AUTH_AUDIENCE are all set"
                );
                ConfigError::new(variable, problem)
            };
            value.ok_or_else(missing)
        });
        let [organization, role, roles] = optional.map(|(_, value)| value);
        let organization = organization.unwrap_or(ORGANIZATION_CLAIM);
        let role = role.unwrap_or(ROLE_CLAIM);
        Ok(Some(IssuerConfig {
            jwks_url: keys_at(url?)?,
            issuer: issuer?.to_owned(),
            audience: audience?.to_owned(),
            organization_claim: claim("AUTH_ORGANIZATION_CLAIM", organization)?,
            role_claim: distinct(claim("AUTH_ROLE_CLAIM", role)?, organization)?,
            roles: self::roles(roles)?,
        }))
    }
}

/// Must be https: who can change the response can sign tokens for every user.
fn keys_at(text: &str) -> Result<Url, ConfigError> {
    let wrong = |problem: &str| ConfigError::new("AUTH_JWKS_URL", problem);
    let url = Url::parse(text).ok().filter(Url::has_host);
    let url = url.ok_or_else(|| wrong("is not a URL; write https://host/.well-known/jwks.json"))?;
    match url.scheme() {
        _ if !url.username().is_empty() || url.password().is_some() => {
            Err(wrong("has a user or password; keys are public"))
        }
        "https" => Ok(url),
        "http" if is_loopback(&url) => Ok(url),
        _ => Err(wrong(
            "must be an https:// URL (http:// is for this host only)",
        )),
    }
}

/// The claims that say for whom and until when a token is, and nothing else.
const REGISTERED: [&str; 7] = ["iss", "sub", "aud", "exp", "nbf", "iat", "jti"];

fn claim(variable: &'static str, name: &str) -> Result<String, ConfigError> {
    if name == "/" || REGISTERED.contains(&name.trim_start_matches('/')) {
        let problem = format!(
            "`{name}` cannot say this; name a claim such as org_id, or a JSON pointer such as \
             /app_metadata/org_id"
        );
        return Err(ConfigError::new(variable, problem));
    }
    Ok(name.to_owned())
}

fn distinct(role: String, organization: &str) -> Result<String, ConfigError> {
    if role == organization {
        let problem = format!("is {role}, and so is AUTH_ORGANIZATION_CLAIM; name two claims");
        return Err(ConfigError::new("AUTH_ROLE_CLAIM", problem));
    }
    Ok(role)
}

fn roles(list: Option<&str>) -> Result<BTreeMap<String, String>, ConfigError> {
    let wrong = |problem: String| ConfigError::new("AUTH_ROLES", problem);
    let Some(list) = list else {
        return Ok(ROLES.map(|role| (role.to_owned(), role.to_owned())).into());
    };
    let mut roles = BTreeMap::new();
    for pair in list.split(',').map(str::trim).filter(|p| !p.is_empty()) {
        let named = pair.rsplit_once('=').map(|(a, b)| (a.trim(), b.trim()));
        let (theirs, ours) = named
            .filter(|(theirs, _)| !theirs.is_empty())
            .ok_or_else(|| {
                wrong(format!(
                    "`{pair}` is not of the form theirs=ours, such as admin=owner"
                ))
            })?;
        if ours == "operator" || ours == "operator.read" {
            return Err(wrong(format!(
                "`{pair}`: no token makes an operator, who works across organizations and logs in \
                 here; make one with `users create --operator`"
            )));
        }
        if !ROLES.contains(&ours) {
            return Err(wrong(format!(
                "`{pair}`: the roles here are owner, billing_manager and member"
            )));
        }
        let before = roles.insert(theirs.to_owned(), ours.to_owned());
        if before.is_some_and(|before| before != ours) {
            return Err(wrong(format!("says twice what `{theirs}` is")));
        }
    }
    if roles.is_empty() {
        return Err(wrong("names no role".to_owned()));
    }
    Ok(roles)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole() -> IssuerArgs {
        let some = |text: &str| Some(text.to_owned());
        IssuerArgs {
            auth_jwks_url: some("https://id.example.com/jwks"),
            auth_issuer: some("https://id.example.com/"),
            auth_audience: some("billing"),
            ..IssuerArgs::default()
        }
    }

    fn refused(change: impl Fn(&mut IssuerArgs)) -> &'static str {
        let mut arguments = whole();
        change(&mut arguments);
        arguments.check().unwrap_err().variable
    }

    #[test]
    fn it_is_whole_or_absent() {
        assert!(IssuerArgs::default().check().unwrap().is_none());
        let found = whole().check().unwrap().unwrap();
        assert_eq!(found.organization_claim, "org_id");
        assert_eq!(found.role_claim, "role");
        assert_eq!(found.roles.len(), 3);
        assert_eq!(refused(|a| a.auth_jwks_url = None), "AUTH_JWKS_URL");
        assert_eq!(refused(|a| a.auth_issuer = None), "AUTH_ISSUER");
        assert_eq!(
            refused(|a| a.auth_audience = Some(" ".to_owned())),
            "AUTH_AUDIENCE"
        );
        let alone = IssuerArgs {
            auth_roles: Some("admin=owner".to_owned()),
            ..IssuerArgs::default()
        };
        assert_eq!(alone.check().unwrap_err().variable, "AUTH_JWKS_URL");
    }

    #[test]
    fn what_contradicts_itself_is_named() {
        for url in [
            "http://id.example.com/jwks",
            "ftp://127.0.0.1/",
            "https://me:secret@id.example.com/",
            "jwks",
        ] {
            assert_eq!(
                refused(|a| a.auth_jwks_url = Some(url.to_owned())),
                "AUTH_JWKS_URL",
                "{url}"
            );
        }
        for claim in ["sub", "iss", "/", "/aud"] {
            assert_eq!(
                refused(|a| a.auth_organization_claim = Some(claim.to_owned())),
                "AUTH_ORGANIZATION_CLAIM",
                "{claim}"
            );
        }
        assert_eq!(
            refused(|a| a.auth_role_claim = Some("org_id".to_owned())),
            "AUTH_ROLE_CLAIM"
        );
        for roles in [
            "admin",
            "=owner",
            "admin=root",
            "admin=operator",
            "admin=owner,admin=member",
            ",",
        ] {
            assert_eq!(
                refused(|a| a.auth_roles = Some(roles.to_owned())),
                "AUTH_ROLES",
                "{roles}"
            );
        }
    }

    #[test]
    fn a_role_may_have_any_name() {
        let found = roles(Some(
            " https://a/?r=admin=owner , org:finance = billing_manager,",
        ))
        .unwrap();
        assert_eq!(found["https://a/?r=admin"], "owner");
        assert_eq!(found["org:finance"], "billing_manager");
    }
}
