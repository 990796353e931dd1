//! Settings of the customer pages: what they are called, how they look, and who may frame
//! them.

use clap::Args;

use super::colour::Colour;
use super::{ConfigError, given};

#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Service")]
pub struct PortalArgs {
    /// What the customer pages call the product.
    #[arg(long, env = "PORTAL_NAME")]
    portal_name: Option<String>,
    /// How the customer pages look: `accent=#1f5fbf; accent-dark=#8ab8ff; radius=10;
    /// font=system`. Each part is optional.
    #[arg(long, env = "PORTAL_THEME")]
    portal_theme: Option<String>,
    /// Origins (https://host) whose pages may frame the customer pages, comma separated;
    /// unset: none.
    #[arg(long, env = "FRAME_ANCESTORS")]
    frame_ancestors: Option<String>,
}

#[derive(Debug, Clone)]
pub struct PortalConfig {
    pub name: String,
    pub theme: Theme,
    /// As a policy writes them; empty: none.
    pub frame_ancestors: Vec<String>,
}

impl Default for PortalConfig {
    fn default() -> Self {
        Self {
            name: "Billing".to_owned(),
            theme: Theme::default(),
            frame_ancestors: Vec::new(),
        }
    }
}

/// The most characters of a name, which stands beside links.
const LONGEST_NAME: usize = 60;

impl PortalArgs {
    pub fn check(&self) -> Result<PortalConfig, ConfigError> {
        let default = PortalConfig::default();
        let name = given(self.portal_name.as_deref()).map(str::trim);
        if name.is_some_and(|name| {
            name.chars().count() > LONGEST_NAME || name.chars().any(char::is_control)
        }) {
            let problem = format!("expected at most {LONGEST_NAME} characters on one line");
            return Err(ConfigError::new("PORTAL_NAME", problem));
        }
        let theme = given(self.portal_theme.as_deref()).map(Theme::parse);
        let ancestors = given(self.frame_ancestors.as_deref()).into_iter();
        let ancestors = ancestors.flat_map(|list| list.split(','));
        let ancestors = ancestors.map(str::trim).filter(|one| !one.is_empty());
        Ok(PortalConfig {
            name: name.map_or(default.name, str::to_owned),
            theme: theme.transpose()?.unwrap_or_default(),
            frame_ancestors: ancestors.map(ancestor).collect::<Result<_, _>>()?,
        })
    }
}

/// An origin as a policy may have it: nothing in it ends the directive, or names more.
fn ancestor(text: &str) -> Result<String, ConfigError> {
    let url = reqwest::Url::parse(text).ok();
    let origin = url.map(|url| url.origin());
    let origin = origin.filter(|origin| origin.is_tuple());
    let origin = origin.map(|origin| origin.ascii_serialization());
    let is_web = text.starts_with("https://") || text.starts_with("http://");
    // The host of an address may have `*`, `;` and quotes, which mean something in a policy.
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:/[]".contains(&byte);
    let is_web = is_web && text.bytes().all(is_plain);
    let same = |origin: &String| {
        let text = text.strip_suffix('/').unwrap_or(text);
        origin.eq_ignore_ascii_case(text)
    };
    origin.filter(|one| is_web && same(one)).ok_or_else(|| {
        ConfigError::new(
            "FRAME_ANCESTORS",
            format!("expected https://host or https://host:port, got `{text}`"),
        )
    })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Font {
    System,
    Serif,
    Rounded,
}

impl Font {
    const ALL: [(&'static str, Self); 3] = [
        ("system", Self::System),
        ("serif", Self::Serif),
        ("rounded", Self::Rounded),
    ];

    fn families(self) -> &'static str {
        match self {
            Self::System => {
                "system-ui, -apple-system, \"Segoe UI\", Roboto, \"Helvetica Neue\", Arial, \
                 sans-serif"
            }
            Self::Serif => "\"Iowan Old Style\", Charter, Cambria, Georgia, serif",
            Self::Rounded => {
                "ui-rounded, \"Hiragino Maru Gothic ProN\", Quicksand, Nunito, system-ui, \
                 sans-serif"
            }
        }
    }
}

/// What of the looks is the operator's: nothing that could make a page unreadable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Theme {
    accent: Colour,
    accent_dark: Colour,
    radius_px: u8,
    font: Font,
}

/// The lightest and the darkest that the accent is read on.
const LIGHT_GROUND: Colour = Colour::new(0xf4, 0xf5, 0xf8);
const DARK_GROUND: Colour = Colour::new(0x1f, 0x26, 0x32);
const MOST_RADIUS_PX: u8 = 24;

impl Default for Theme {
    fn default() -> Self {
        let accent = Colour::new(0x35, 0x4f, 0xd8);
        Self {
            accent,
            accent_dark: accent.lightened_for(DARK_GROUND),
            radius_px: 12,
            font: Font::System,
        }
    }
}

impl Theme {
    fn parse(text: &str) -> Result<Self, ConfigError> {
        let problem = |problem: String| ConfigError::new("PORTAL_THEME", problem);
        let (mut theme, mut dark) = (Self::default(), None);
        let parts = text.split(';').map(str::trim);
        for part in parts.filter(|part| !part.is_empty()) {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            let (name, value) = (name.trim(), value.trim());
            let colour = || {
                Colour::parse(value).ok_or_else(|| {
                    problem(format!(
                        "{name}: expected a colour such as #1f5fbf, got `{value}`"
                    ))
                })
            };
            match name {
                "accent" => theme.accent = colour()?,
                "accent-dark" => dark = Some(colour()?),
                "radius" => {
                    let radius = value.parse().ok();
                    let radius = radius.filter(|radius| *radius <= MOST_RADIUS_PX);
                    theme.radius_px = radius.ok_or_else(|| {
                        problem(format!(
                            "radius: expected pixels from 0 to {MOST_RADIUS_PX}, got `{value}`"
                        ))
                    })?;
                }
                "font" => {
                    let found = Font::ALL.iter().find(|(known, _)| *known == value);
                    let names = Font::ALL.map(|(name, _)| name).join(", ");
                    theme.font = found.map(|(_, font)| *font).ok_or_else(|| {
                        problem(format!("font: expected one of {names}, got `{value}`"))
                    })?;
                }
                _ => {
                    return Err(problem(format!(
                        "unknown part `{name}`; expected accent, accent-dark, radius or font"
                    )));
                }
            }
        }
        if !theme.accent.is_readable_on(LIGHT_GROUND) {
            return Err(problem(format!(
                "accent: {} cannot be read on white; choose a darker one (4.5 to 1 is needed)",
                theme.accent
            )));
        }
        theme.accent_dark = dark.unwrap_or(theme.accent.lightened_for(DARK_GROUND));
        if !theme.accent_dark.is_readable_on(DARK_GROUND) {
            return Err(problem(format!(
                "accent-dark: {} cannot be read in the dark; choose a lighter one (4.5 to 1 is \
                 needed), or leave it out",
                theme.accent_dark
            )));
        }
        Ok(theme)
    }

    /// The variables of the style sheet.
    pub fn css(&self) -> String {
        let Self {
            accent,
            accent_dark,
            radius_px,
            font,
        } = self;
        format!(
            ":root {{ --accent: {accent}; --radius: {radius_px}px; --font: {}; }}\n\
             @media (prefers-color-scheme: dark) {{ :root {{ --accent: {accent_dark}; }} }}\n",
            font.families()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(name: &str, theme: &str, ancestors: &str) -> Result<PortalConfig, ConfigError> {
        let args = PortalArgs {
            portal_name: Some(name.to_owned()),
            portal_theme: Some(theme.to_owned()),
            frame_ancestors: Some(ancestors.to_owned()),
        };
        args.check()
    }

    #[test]
    fn what_is_left_out_is_as_by_default() {
        let none = args("", "", "").unwrap();
        assert_eq!(
            (none.name.as_str(), &none.theme),
            ("Billing", &Theme::default())
        );
        assert!(none.frame_ancestors.is_empty());
        let some = args("Acme", "radius=4; accent = #6d28d9;", "").unwrap();
        let css = some.theme.css();
        assert!(css.contains("--accent: #6d28d9; --radius: 4px;"), "{css}");
        assert_eq!(some.name, "Acme");
    }

    #[test]
    fn a_theme_can_be_read_and_is_nothing_else() {
        for wrong in [
            "accent=red",
            "accent=#ffee00",
            "accent-dark=#101010",
            "radius=25",
            "radius=4px",
            "font=Comic Sans",
            "colour=#000",
            "accent",
            "accent=#000}body{display:none",
        ] {
            let refused = args("", wrong, "").unwrap_err();
            assert!(refused.to_string().contains("PORTAL_THEME"), "{wrong}");
        }
        assert!(args("a\nb", "", "").is_err());
    }

    #[test]
    fn frames_are_of_origins_alone() {
        let list = "https://app.example.com, http://localhost:5173,https://A.example/";
        assert_eq!(
            args("", "", list).unwrap().frame_ancestors,
            [
                "https://app.example.com",
                "http://localhost:5173",
                "https://a.example"
            ]
        );
        for wrong in [
            "*",
            "'self'",
            "https://*.example.com",
            "https://a.example/path",
            "https://a.example; script-src *",
            "https://a.example;sandbox",
            "https://'self'",
            "https://a.example script-src",
            "app.example.com",
            "data:text/html",
        ] {
            assert!(args("", "", wrong).is_err(), "{wrong}");
        }
    }
}
