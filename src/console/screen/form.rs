//! Filters and forms, and their fields and buttons.

use super::Tone;
use crate::pages;

/// A filter, whose fields are in the page's address.
pub struct Filter {
    pub action: &'static str,
    pub label: &'static str,
    pub submit: &'static str,
    pub fields: Vec<Field>,
}

impl Filter {
    pub fn is_set(&self) -> bool {
        self.fields.iter().any(|field| !field.value.is_empty())
    }
}

/// A field of a filter or a form.
pub struct Field {
    pub name: &'static str,
    pub label: &'static str,
    /// What was typed: it is shown again where it is refused.
    pub value: String,
    pub example: &'static str,
    /// As HTML names it: text, password.
    pub kind: &'static str,
    pub autocomplete: &'static str,
    pub hint: &'static str,
    pub required: bool,
    /// Values with their names; empty: any text.
    pub choices: Vec<(&'static str, &'static str)>,
}

impl Field {
    pub fn text(
        name: &'static str,
        label: &'static str,
        value: Option<&str>,
        example: &'static str,
    ) -> Self {
        Self {
            name,
            label,
            value: value.unwrap_or_default().to_owned(),
            example,
            kind: "text",
            autocomplete: "off",
            hint: "",
            required: false,
            choices: Vec::new(),
        }
    }

    /// A text that must be given.
    pub fn asked(name: &'static str, label: &'static str) -> Self {
        Self {
            required: true,
            ..Self::text(name, label, None, "")
        }
    }

    pub fn password(name: &'static str, label: &'static str, autocomplete: &'static str) -> Self {
        Self {
            kind: "password",
            autocomplete,
            ..Self::asked(name, label)
        }
    }

    /// A one-time code.
    pub fn code(label: &'static str) -> Self {
        Self {
            autocomplete: "one-time-code",
            ..Self::asked("code", label)
        }
    }

    pub fn choice(
        name: &'static str,
        label: &'static str,
        choices: Vec<(&'static str, &'static str)>,
    ) -> Self {
        Self {
            choices,
            ..Self::text(name, label, None, "")
        }
    }

    pub fn hint(self, hint: &'static str) -> Self {
        Self { hint, ..self }
    }

    pub fn has(&self, choice: &str) -> bool {
        self.value == choice
    }
}

/// A form that does something: buttons, and what is filled in before.
#[derive(Default)]
pub struct Form {
    pub title: String,
    pub text: String,
    pub action: String,
    /// The token of whom the form is made for, where nobody has signed in; `None`: the page's.
    pub csrf: Option<String>,
    pub hidden: Vec<(&'static str, String)>,
    pub fields: Vec<Field>,
    pub buttons: Vec<Button>,
    /// The page of who does not want it.
    pub back: Option<String>,
}

impl Form {
    /// The id of a field on the page, which may have several forms.
    pub fn id(&self, field: &Field) -> String {
        let button = self.buttons.first().map_or("form", |button| button.value);
        format!("{button}-{}", field.name)
    }

    pub fn token<'a>(&'a self, of_page: &'a str) -> &'a str {
        self.csrf.as_deref().unwrap_or(of_page)
    }
}

pub struct Button {
    pub value: &'static str,
    pub label: String,
    pub tone: Tone,
}

impl Button {
    /// Whether what a button says does something, rather than ask or try.
    pub fn acts(value: &str) -> bool {
        matches!(
            value,
            "replay"
                | "discard"
                | "verify"
                | "create-key"
                | "start"
                | "stop"
                | "set"
                | "unset"
                | "create"
                | "rotate"
                | "test"
                | "enable"
                | "disable"
                | "remove"
                | "recover"
                | "resend"
        )
    }

    /// The address with a key of its own, where the button does something.
    pub fn once(&self, action: &str) -> Option<String> {
        Self::acts(self.value).then(|| pages::once(action))
    }
}
