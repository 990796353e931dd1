//! Settings of how operators sign in: second factors, and the identity provider.

use clap::Args;
use reqwest::Url;

use super::{ConfigError, boolean, given, is_loopback, or, secret_of_environment};

const GROUPS_CLAIM: &str = "groups";
const SCOPES: &str = "openid profile email";

#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Operators")]
pub struct OperatorArgs {
    /// Let operators sign in with a password only where a one-time code comes with it; who has
    /// no second factor yet makes one at the next sign-in.
    #[arg(long, env = "OPERATORS_REQUIRE_SECOND_FACTOR", default_value = "false",
          value_parser = or("false"), num_args = 0..=1, default_missing_value = "true")]
    operators_require_second_factor: String,
    /// The identity provider (OpenID Connect) by which operators sign in to the console, to the
    /// letter of its `issuer`; unset: passwords. OIDC_CLIENT_SECRET is read from the environment.
    #[arg(long, env = "OIDC_ISSUER")]
    oidc_issuer: Option<String>,
    /// What this service is called at the provider.
    #[arg(long, env = "OIDC_CLIENT_ID")]
    oidc_client_id: Option<String>,
    /// The group whose members are operators.
    #[arg(long, env = "OIDC_OPERATOR_GROUP")]
    oidc_operator_group: Option<String>,
    /// The group whose members look at everything and change nothing.
    #[arg(long, env = "OIDC_READONLY_GROUP")]
    oidc_readonly_group: Option<String>,
    /// The claim with the groups. Unset: groups.
    #[arg(long, env = "OIDC_GROUPS_CLAIM")]
    oidc_groups_claim: Option<String>,
    /// What is asked of the provider, with spaces between. Unset: openid profile email.
    #[arg(long, env = "OIDC_SCOPES")]
    oidc_scopes: Option<String>,
    /// Take operators' passwords beside the provider, for when it is down.
    #[arg(long, env = "OIDC_ALLOW_PASSWORDS", default_value = "false",
          value_parser = or("false"), num_args = 0..=1, default_missing_value = "true")]
    oidc_allow_passwords: String,
}

#[derive(Debug, Clone, Default)]
pub struct OperatorConfig {
    pub require_second_factor: bool,
    /// `None` if operators sign in by password only.
    pub oidc: Option<OidcConfig>,
}

/// Operators' identity provider.
#[derive(Clone)]
pub struct OidcConfig {
    /// Compared exactly with the tokens' `iss`.
    pub issuer: String,
    pub client_id: String,
    /// `None` for a public client.
    pub client_secret: Option<String>,
    pub operator_group: Option<String>,
    pub readonly_group: Option<String>,
    pub groups_claim: String,
    pub scopes: String,
    pub allow_passwords: bool,
}

/// Without the secret.
impl std::fmt::Debug for OidcConfig {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("OidcConfig")
            .field("issuer", &self.issuer)
            .field("client_id", &self.client_id)
            .finish_non_exhaustive()
    }
}

impl OperatorArgs {
    pub fn check(&self) -> Result<OperatorConfig, ConfigError> {
        Ok(OperatorConfig {
            require_second_factor: boolean(
                "OPERATORS_REQUIRE_SECOND_FACTOR",
                &self.operators_require_second_factor,
            )?,
            oidc: self.oidc()?,
        })
    }

    fn oidc(&self) -> Result<Option<OidcConfig>, ConfigError> {
        let client_secret = secret_of_environment("OIDC_CLIENT_SECRET")?;
        let text = |value: &Option<String>| given(value.as_deref()).map(str::to_owned);
        let operator_group = text(&self.oidc_operator_group);
        let readonly_group = text(&self.oidc_readonly_group);
        let allow_passwords = boolean("OIDC_ALLOW_PASSWORDS", &self.oidc_allow_passwords)?;
        let Some(issuer) = given(self.oidc_issuer.as_deref()) else {
            let set = [
                ("OIDC_CLIENT_ID", text(&self.oidc_client_id).is_some()),
                ("OIDC_CLIENT_SECRET", client_secret.is_some()),
                ("OIDC_OPERATOR_GROUP", operator_group.is_some()),
                ("OIDC_READONLY_GROUP", readonly_group.is_some()),
                ("OIDC_ALLOW_PASSWORDS", allow_passwords),
            ];
            return match set.into_iter().find(|(_, set)| *set) {
                Some((variable, _)) => Err(ConfigError::new(
                    variable,
                    "is set without OIDC_ISSUER; set both, or neither",
                )),
                None => Ok(None),
            };
        };
        let client_id = text(&self.oidc_client_id).ok_or_else(|| {
            let problem = "is required with OIDC_ISSUER: what this service is called there";
            ConfigError::new("OIDC_CLIENT_ID", problem)
        })?;
        if operator_group.is_none() && readonly_group.is_none() {
            return Err(ConfigError::new(
                "OIDC_OPERATOR_GROUP",
                "is required with OIDC_ISSUER, or OIDC_READONLY_GROUP: who is in neither is no operator",
            ));
        }
        if operator_group == readonly_group {
            return Err(ConfigError::new(
                "OIDC_READONLY_GROUP",
                "is the same as OIDC_OPERATOR_GROUP; name two groups, or one of them alone",
            ));
        }
        let scopes = given(self.oidc_scopes.as_deref()).unwrap_or(SCOPES);
        if !scopes.split(' ').any(|scope| scope == "openid") {
            let problem = "does not have openid, without which the provider does not say who it is";
            return Err(ConfigError::new("OIDC_SCOPES", problem));
        }
        Ok(Some(OidcConfig {
            issuer: provider(issuer)?,
            client_id,
            client_secret,
            operator_group,
            readonly_group,
            groups_claim: text(&self.oidc_groups_claim).unwrap_or_else(|| GROUPS_CLAIM.to_owned()),
            scopes: scopes.to_owned(),
            allow_passwords,
        }))
    }
}

/// Must be https: who can change the response can make operators.
fn provider(text: &str) -> Result<String, ConfigError> {
    let wrong = |problem: &str| ConfigError::new("OIDC_ISSUER", problem);
    let url = Url::parse(text).ok().filter(Url::has_host);
    let url = url.ok_or_else(|| wrong("is not a URL; write https://host/ as the provider does"))?;
    let plain = url.username().is_empty() && url.password().is_none();
    if !plain || url.query().is_some() || url.fragment().is_some() {
        return Err(wrong("has a user, a password, a query or a fragment"));
    }
    match url.scheme() {
        "https" => Ok(text.to_owned()),
        "http" if is_loopback(&url) => Ok(text.to_owned()),
        _ => Err(wrong(
            "must be an https:// URL (http:// is for this host only)",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole() -> OperatorArgs {
        let some = |text: &str| Some(text.to_owned());
        OperatorArgs {
            operators_require_second_factor: "false".to_owned(),
            oidc_issuer: some("https://id.example.com/realms/a"),
            oidc_client_id: some("billing"),
            oidc_operator_group: some("billing-operators"),
            oidc_readonly_group: some("support"),
            oidc_groups_claim: None,
            oidc_scopes: None,
            oidc_allow_passwords: "false".to_owned(),
        }
    }

    fn refused(change: impl Fn(&mut OperatorArgs)) -> &'static str {
        let mut arguments = whole();
        change(&mut arguments);
        arguments.check().unwrap_err().variable
    }

    #[test]
    fn the_provider_is_whole_or_absent() {
        let found = whole().check().unwrap().oidc.unwrap();
        assert_eq!(found.issuer, "https://id.example.com/realms/a");
        assert_eq!(found.groups_claim, "groups");
        assert_eq!(found.scopes, "openid profile email");
        assert!(!found.allow_passwords);
        assert_eq!(refused(|a| a.oidc_client_id = None), "OIDC_CLIENT_ID");
        assert_eq!(refused(|a| a.oidc_issuer = None), "OIDC_CLIENT_ID");
        assert_eq!(
            refused(|a| {
                a.oidc_operator_group = None;
                a.oidc_readonly_group = None;
            }),
            "OIDC_OPERATOR_GROUP"
        );
        let mut none = whole();
        none.oidc_issuer = None;
        none.oidc_client_id = None;
        none.oidc_operator_group = None;
        none.oidc_readonly_group = None;
        assert!(none.check().unwrap().oidc.is_none());
    }

    #[test]
    fn what_contradicts_itself_is_named() {
        for issuer in [
            "http://id.example.com",
            "id.example.com",
            "https://me:secret@id.example.com",
            "https://id.example.com/?a=b",
        ] {
            let named = refused(|a| a.oidc_issuer = Some(issuer.to_owned()));
            assert_eq!(named, "OIDC_ISSUER", "{issuer}");
        }
        let same = refused(|a| a.oidc_readonly_group = Some("billing-operators".to_owned()));
        assert_eq!(same, "OIDC_READONLY_GROUP");
        assert_eq!(
            refused(|a| a.oidc_scopes = Some("profile".to_owned())),
            "OIDC_SCOPES"
        );
    }
}
