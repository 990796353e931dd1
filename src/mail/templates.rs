//! Templates of mails: for each kind a text, whose first line is the subject, and a page,
//! and one layout that the pages share. An operator may replace each of them.

use std::path::Path;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{Environment, UndefinedBehavior};

use super::content::{self, Content};
use super::kind::Kind;
use crate::config::ConfigError;

const VARIABLE: &str = "MAIL_TEMPLATES_DIR";
const LAYOUT: &str = "layout.html";
const SUBJECT: &str = "Subject:";
/// Longer ones are cut off by programs that show mails.
const LONGEST_SUBJECT: usize = 200;

macro_rules! built_in {
    ($($name:literal),* $(,)?) => {
        &[$(($name, include_str!(concat!("templates/", $name)))),*]
    };
}

/// The layout comes first: the others build on it.
const BUILT_IN: &[(&str, &str)] = built_in![
    "layout.html",
    "payment_failed.txt",
    "payment_failed.html",
    "action_required.txt",
    "action_required.html",
    "trial_ending.txt",
    "trial_ending.html",
    "card_expiring.txt",
    "card_expiring.html",
    "quota_warning.txt",
    "quota_warning.html",
    "quota_reached.txt",
    "quota_reached.html",
];

/// What a template made of a content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rendered {
    pub subject: String,
    pub text: String,
    pub html: String,
}

/// A template that fails: which, where, and why.
#[derive(Debug, thiserror::Error)]
#[error("{template}:{line}: {problem}")]
pub struct TemplateError {
    template: String,
    line: usize,
    problem: String,
}

impl TemplateError {
    fn new(template: &str, line: usize, problem: impl Into<String>) -> Self {
        Self {
            template: template.to_owned(),
            line,
            problem: problem.into(),
        }
    }

    /// `template` is meant where the error names none.
    fn of(error: &minijinja::Error, template: &str) -> Self {
        // What a template includes or extends is at fault, if it says so.
        let mut innermost = error;
        while let Some(cause) = std::error::Error::source(innermost) {
            match cause.downcast_ref::<minijinja::Error>() {
                Some(cause) => innermost = cause,
                None => break,
            }
        }
        let kind = innermost.kind().to_string();
        let problem = match innermost.detail() {
            Some(detail) => format!("{kind}: {detail}"),
            None => kind,
        };
        let name = innermost.name().unwrap_or(template);
        Self::new(name, innermost.line().unwrap_or(1), problem)
    }
}

#[derive(Debug)]
pub struct Templates(Environment<'static>);

impl Templates {
    /// The built-in templates, or those in `folder` of the same names. Each is tried with
    /// samples, so that one which cannot be rendered is found before it is needed.
    pub fn load(folder: Option<&Path>) -> Result<Self, ConfigError> {
        if let Some(folder) = folder {
            refuse_unknown(folder)?;
        }
        let refused = |error: TemplateError| match folder {
            Some(folder) => {
                let path = folder.join(&error.template);
                let problem = format!("{}:{}: {}", path.display(), error.line, error.problem);
                ConfigError::new(VARIABLE, problem)
            }
            None => ConfigError::new(VARIABLE, error.to_string()),
        };
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        // Tags on lines of their own leave no lines.
        let syntax = SyntaxConfig::builder()
            .trim_blocks(true)
            .lstrip_blocks(true)
            .build()
            .map_err(|error| refused(TemplateError::of(&error, LAYOUT)))?;
        environment.set_syntax(syntax);
        for (name, built_in) in BUILT_IN {
            let source = match folder {
                Some(folder) => own(folder, name)?,
                None => None,
            };
            let source = source.unwrap_or_else(|| (*built_in).to_owned());
            let added = environment.add_template_owned(*name, source);
            added.map_err(|error| refused(TemplateError::of(&error, name)))?;
        }
        let templates = Self(environment);
        for kind in Kind::ALL {
            for sample in content::samples(kind) {
                templates.render(kind, &sample).map_err(refused)?;
            }
        }
        Ok(templates)
    }

    pub fn render(&self, kind: Kind, content: &Content) -> Result<Rendered, TemplateError> {
        let name = format!("{}.txt", kind.as_str());
        let text = self.one(&name, content)?;
        let (first, text) = text.split_once('\n').unwrap_or((&text, ""));
        let subject = first.strip_prefix(SUBJECT).map(one_line);
        let subject = subject.filter(|subject| !subject.is_empty());
        let subject = subject.ok_or_else(|| {
            let problem = format!(
                "the first line must be `{SUBJECT} …`, got `{}`",
                first.trim()
            );
            TemplateError::new(&name, 1, problem)
        })?;
        Ok(Rendered {
            subject,
            text: format!("{}\n", text.trim()),
            html: self.one(&format!("{}.html", kind.as_str()), content)?,
        })
    }

    fn one(&self, name: &str, content: &Content) -> Result<String, TemplateError> {
        let failed = |error: minijinja::Error| TemplateError::of(&error, name);
        let template = self.0.get_template(name).map_err(failed)?;
        template.render(Serde(content)).map_err(failed)
    }
}

/// Names of customers' may have line breaks, and a header may not.
fn one_line(text: &str) -> String {
    let words = text.split(|c: char| c.is_whitespace() || c.is_control());
    let words: Vec<&str> = words.filter(|word| !word.is_empty()).collect();
    words.join(" ").chars().take(LONGEST_SUBJECT).collect()
}

/// An operator's template of this name, if there is one.
fn own(folder: &Path, name: &str) -> Result<Option<String>, ConfigError> {
    let path = folder.join(name);
    match std::fs::read_to_string(&path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => {
            let problem = format!("{} cannot be read: {error}", path.display());
            Err(ConfigError::new(VARIABLE, problem))
        }
    }
}

/// A name that is misspelt would replace nothing, and nobody would notice. Hidden files are
/// let be: Kubernetes makes some.
fn refuse_unknown(folder: &Path) -> Result<(), ConfigError> {
    let refused = |problem: String| Err(ConfigError::new(VARIABLE, problem));
    let unreadable = |error| ConfigError::new(VARIABLE, format!("{}: {error}", folder.display()));
    for entry in std::fs::read_dir(folder).map_err(unreadable)? {
        let name = entry.map_err(unreadable)?.file_name();
        let name = name.to_string_lossy();
        let known = BUILT_IN.iter().any(|(known, _)| *known == name);
        if !known && !name.starts_with('.') {
            let names: Vec<&str> = BUILT_IN.iter().map(|(name, _)| *name).collect();
            return refused(format!(
                "{} replaces no template; expected {}",
                folder.join(&*name).display(),
                names.join(", ")
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loaded(files: &[(&str, &str)]) -> Result<Templates, String> {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        let loaded = Templates::load(Some(folder.path()));
        loaded.map_err(|error| {
            let said = error.to_string();
            said.replace(&folder.path().display().to_string(), "FOLDER")
        })
    }

    fn rendered(templates: &Templates, kind: Kind) -> Rendered {
        let [first, ..] = &content::samples(kind)[..] else {
            panic!("each kind has samples")
        };
        templates.render(kind, first).unwrap()
    }

    #[test]
    fn each_kind_has_a_subject_a_text_and_a_page_without_markup_of_others() {
        let templates = Templates::load(None).unwrap();
        for kind in Kind::ALL {
            let all = rendered(&templates, kind);
            assert!(all.subject.starts_with("Acme: "), "{all:?}");
            assert!(all.text.starts_with("Hello,\n\n"), "{all:?}");
            assert!(all.text.ends_with("\n\nAcme\n"), "{all:?}");
            assert!(all.text.contains("Example & Sons"), "{all:?}");
            assert!(all.html.contains("Example &amp; Sons"), "{all:?}");
            assert!(all.html.contains("https:&#x2f;&#x2f;"), "{all:?}");
            for each in [&all.subject, &all.text, &all.html] {
                assert!(!each.contains("none") && !each.contains("{{"), "{each}");
            }
        }
        let text = rendered(&templates, Kind::PaymentFailed).text;
        assert!(!text.contains("\n\n\n"), "{text}");
    }

    #[test]
    fn templates_are_replaced_one_by_one() {
        let own = "Subject: Card {{ card.expires }}\n\nRenew it.\n";
        let templates = loaded(&[("card_expiring.txt", own), (".hidden", "")]).unwrap();
        let card = rendered(&templates, Kind::CardExpiring);
        assert_eq!(
            (&*card.subject, &*card.text),
            ("Card 12/2026", "Renew it.\n")
        );
        assert!(card.html.contains("Acme"), "the page is the built-in one");
        let layout = "<b>{% block body %}{% endblock %}</b>";
        let templates = loaded(&[(LAYOUT, layout)]).unwrap();
        let html = rendered(&templates, Kind::TrialEnding).html;
        assert!(
            html.starts_with("<b>") && html.contains("Standard"),
            "{html}"
        );
    }

    #[test]
    fn a_broken_template_is_named_with_its_line() {
        let refused = |name: &str, text: &str| loaded(&[(name, text)]).unwrap_err();
        let unclosed = refused(
            "trial_ending.txt",
            "Subject: x\n\n{% if trial.ends %}\nno end",
        );
        assert!(
            unclosed.starts_with("MAIL_TEMPLATES_DIR: FOLDER/trial_ending.txt:"),
            "{unclosed}"
        );
        let unknown = refused("quota_reached.html", "\n<p>\n{{ quota.nothing }}");
        assert!(
            unknown.starts_with("MAIL_TEMPLATES_DIR: FOLDER/quota_reached.html:3: "),
            "{unknown}"
        );
        // A branch that few mails take.
        let rare = "Subject: x\n{% if quota.over_limit == 'overage' %}\n{{ price }}\n{% endif %}";
        let rare = refused("quota_warning.txt", rare);
        assert!(
            rare.starts_with("MAIL_TEMPLATES_DIR: FOLDER/quota_warning.txt:3: "),
            "{rare}"
        );
        let layout = refused(LAYOUT, "a\nb {{ oops }}");
        assert!(
            layout.starts_with("MAIL_TEMPLATES_DIR: FOLDER/layout.html:2: "),
            "{layout}"
        );
        let bare = refused("card_expiring.txt", "Hello");
        assert!(bare.contains("card_expiring.txt:1: the first line must be `Subject: …`"));
        let misspelt = refused("card_expires.txt", "Subject: x");
        assert!(
            misspelt.contains("FOLDER/card_expires.txt replaces no template"),
            "{misspelt}"
        );
        let absent = Templates::load(Some(Path::new("/nowhere"))).unwrap_err();
        assert!(absent.to_string().starts_with("MAIL_TEMPLATES_DIR: "));
    }

    #[test]
    fn a_subject_is_one_line() {
        assert_eq!(one_line(" a\r\nBcc: b\u{0}c "), "a Bcc: b c");
    }
}
