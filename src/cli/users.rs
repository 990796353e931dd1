//! `users`

use std::io::{self, BufRead as _, IsTerminal as _, Read as _, Write as _};

use clap::{Args, Subcommand};
use serde::Serialize;
use sqlx::postgres::PgPool;

use super::Failure;
use super::arguments;
use super::database::on_database;
use super::organization;
use super::output::{Format, say, table};
use crate::config::GlobalArgs;
use crate::db;
use crate::tenancy::auth::{self, By, Created, Hasher, NewUser, Role, User, Which};

/// Maximum length of a password on standard input.
const MOST: u64 = 16 * 1024;

#[derive(Debug, Subcommand)]
pub enum Users {
    /// Create a user, or make one who exists a member of the organization.
    Create {
        /// The user's organization; operators have none.
        #[arg(long, value_name = "ORG", value_parser = arguments::organization)]
        organization: Option<String>,
        /// The address that the user logs in with.
        #[arg(long)]
        email: String,
        /// owner, billing_manager, member, operator or operator.read.
        #[arg(long, value_parser = role)]
        role: Role,
        #[command(flatten)]
        password: PasswordArgs,
        #[command(flatten)]
        format: Format,
    },
    /// Set a user's password and end the user's sessions.
    SetPassword {
        /// The address that the user logs in with.
        #[arg(long)]
        email: String,
        #[command(flatten)]
        password: PasswordArgs,
        #[command(flatten)]
        format: Format,
    },
    /// Disable a user's login and end the user's sessions.
    Disable {
        /// The address that the user logs in with.
        #[arg(long)]
        email: String,
    },
    /// Let a disabled user log in again.
    Enable {
        /// The address that the user logs in with.
        #[arg(long)]
        email: String,
    },
    /// Remove the second factor of an operator who has lost it, and end their sessions.
    ResetSecondFactor {
        /// The address that the operator logs in with.
        #[arg(long)]
        email: String,
    },
    /// List the users.
    List {
        /// Only users of this organization.
        #[arg(long, value_name = "ORG", value_parser = arguments::organization)]
        organization: Option<String>,
        #[command(flatten)]
        format: Format,
    },
}

/// The source of a password: never an argument, which every user of the host can
/// list.
#[derive(Debug, Clone, Copy, Args)]
#[group(multiple = false)]
pub struct PasswordArgs {
    /// Read the password from standard input.
    #[arg(long)]
    password_stdin: bool,
    /// Generate a password and print it.
    #[arg(long)]
    generate_password: bool,
}

fn role(text: &str) -> Result<Role, String> {
    let names = || Role::ALL.map(Role::as_str).join(", ");
    Role::named(text).ok_or_else(|| format!("expected one of {}", names()))
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Made {
    #[serde(flatten)]
    user: User,
    /// Whether the user was there before, and became a member.
    existed: bool,
    /// Only if it was generated; it is not shown again.
    #[serde(skip_serializing_if = "Option::is_none")]
    password: Option<String>,
}

impl Users {
    pub async fn run(self, global: &GlobalArgs) -> Result<(), Failure> {
        let config = global.database()?;
        // Read before anything is touched.
        let password = match &self {
            Self::Create { password, .. } | Self::SetPassword { password, .. } => {
                password.read()?
            }
            _ => String::new(),
        };
        on_database(&config, async |database| {
            let pool = db::pool(database.service.clone(), 1);
            self.run_on(&pool, password).await
        })
        .await
    }

    async fn run_on(self, pool: &PgPool, text: String) -> Result<(), Failure> {
        let hasher = Hasher::default();
        match self {
            Self::Create {
                organization,
                email,
                role,
                password,
                format,
            } => {
                let new = NewUser {
                    email,
                    role,
                    organization_id: organization::found_if_named(pool, organization.as_deref())
                        .await?,
                    password: text.clone(),
                };
                let created = auth::create_user(pool, &hasher, new, &By::SYSTEM).await?;
                let shown = password.generate_password.then_some(text);
                print_made(&Made::of(created, shown), format)
            }
            Self::SetPassword {
                email,
                password,
                format,
            } => {
                let (which, by) = (Which::Email(&email), &By::SYSTEM);
                let user = auth::set_password(pool, &hasher, which, text.clone(), by).await?;
                if user.disabled_at.is_some() {
                    say_disabled(&email);
                }
                match password.generate_password {
                    true => print_password(&email, &text, format),
                    false => Ok(()),
                }
            }
            Self::Disable { email } => {
                auth::disable_user(pool, Which::Email(&email), &By::SYSTEM).await?;
                Ok(())
            }
            Self::Enable { email } => {
                auth::enable_user(pool, Which::Email(&email), &By::SYSTEM).await?;
                Ok(())
            }
            Self::ResetSecondFactor { email } => {
                let which = Which::Email(&email);
                let (_, removed) = auth::reset_second_factor(pool, which, &By::SYSTEM).await?;
                if !removed {
                    say(&format!("{email} has no second factor"));
                }
                Ok(())
            }
            Self::List {
                organization,
                format,
            } => {
                let organization =
                    organization::found_if_named(pool, organization.as_deref()).await?;
                let users = auth::list_users(pool, organization).await?;
                format.print(&users, |users| describe(users))
            }
        }
    }
}

impl Made {
    /// A user that existed before keeps their password.
    fn of(created: Created, password: Option<String>) -> Self {
        match created {
            Created::User(user) => Self {
                user,
                existed: false,
                password,
            },
            Created::Member(user) => Self {
                user,
                existed: true,
                password: None,
            },
        }
    }
}

fn print_made(made: &Made, format: Format) -> Result<(), Failure> {
    let User { id, email, .. } = &made.user;
    if made.existed {
        say(&format!(
            "{email} was there: now a member of the organization, as {}, with the password as it was",
            made.user.role
        ));
    }
    if made.user.disabled_at.is_some() {
        say_disabled(email);
    }
    format.print_made(
        made,
        &format!("user {email} ({id}); `users set-password` gives a password"),
        |made| {
            let password = made.password.as_ref();
            let password = password.map_or_else(String::new, |p| format!("\npassword: {p}"));
            format!("{id}{password}")
        },
    )
}

/// Shows a password that was generated.
fn print_password(email: &str, password: &str, format: Format) -> Result<(), Failure> {
    let shown = serde_json::json!({"email": email, "password": password});
    let set = format!(
        "the password of {email}, which is not shown again; `users set-password` sets another"
    );
    format.print_made(&shown, &set, |_| format!("password: {password}"))
}

fn say_disabled(email: &str) {
    say(&format!(
        "warning: {email} is disabled, and cannot log in until `users enable --email {email}`"
    ));
}

impl PasswordArgs {
    fn read(self) -> Result<String, Failure> {
        if self.generate_password {
            return Ok(auth::generated_password());
        }
        if self.password_stdin {
            return from_stdin();
        }
        if !io::stdin().is_terminal() {
            return Err(Failure::usage(
                "no source of the password: give --password-stdin or --generate-password",
            ));
        }
        let first = ask("Password: ")?;
        if ask("Again: ")? != first {
            return Err(Failure::usage("the two passwords differ"));
        }
        Ok(first)
    }
}

/// Standard input, without the line end.
fn from_stdin() -> Result<String, Failure> {
    let mut text = String::new();
    let read = io::stdin().lock().take(MOST).read_to_string(&mut text);
    read.map_err(|error| Failure::usage(format!("--password-stdin: {error}")))?;
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}

/// Reads a line without echo.
fn ask(prompt: &str) -> Result<String, Failure> {
    use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
    let failed = |error: &dyn std::fmt::Display| {
        Failure::failed(format!("cannot use the terminal: {error}"))
    };
    let stdin = io::stdin();
    let shown = tcgetattr(&stdin).map_err(|error| failed(&error))?;
    let mut hidden = shown.clone();
    hidden.local_modes -= LocalModes::ECHO;
    let _ = write!(io::stderr(), "{prompt}");
    tcsetattr(&stdin, OptionalActions::Flush, &hidden).map_err(|error| failed(&error))?;
    let mut line = String::new();
    let read = stdin.lock().read_line(&mut line);
    let _ = tcsetattr(&stdin, OptionalActions::Now, &shown);
    let _ = writeln!(io::stderr());
    read.map_err(|error| failed(&error))?;
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}

fn describe(users: &[User]) -> String {
    let rows: Vec<Vec<String>> = users
        .iter()
        .map(|user| {
            vec![
                user.email.clone(),
                user.role.clone(),
                user.organization_id
                    .map(|id| id.to_string())
                    .unwrap_or_default(),
                if user.disabled_at.is_some() {
                    "disabled"
                } else {
                    ""
                }
                .to_owned(),
            ]
        })
        .collect();
    table(&["EMAIL", "ROLE", "ORGANIZATION", ""], &rows)
}
