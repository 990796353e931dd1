//! The server that takes mails, by SMTP.

use std::time::Duration;

use lettre::Message;
use lettre::transport::smtp;
use lettre::transport::smtp::authentication::{Credentials, Mechanism};
use lettre::transport::smtp::client::{AsyncSmtpConnection, TlsParameters};
use lettre::transport::smtp::extension::ClientId;

use crate::config::{ConfigError, SmtpConfig, SmtpSecurity};

/// How long a server may take to be connected to, and to take a mail.
const WHOLE: Duration = Duration::from_secs(30);
/// The longest part of a server's words that is kept.
const LONGEST_ERROR: usize = 500;

/// Why a mail was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// The server cannot be reached, has no TLS or refuses the login: no mail will go.
    #[error("{0}")]
    Unreachable(String),
    /// This mail was put off.
    #[error("{0}")]
    PutOff(String),
    /// This mail was refused for good.
    #[error("{0}")]
    Refused(String),
}

pub struct Server {
    host: String,
    port: u16,
    security: SmtpSecurity,
    tls: Option<TlsParameters>,
    login: Option<Credentials>,
}

impl Server {
    pub fn new(config: &SmtpConfig) -> Result<Self, ConfigError> {
        let tls = match config.security {
            SmtpSecurity::None => None,
            SmtpSecurity::Tls | SmtpSecurity::StartTls => {
                let made = TlsParameters::new(config.host.clone());
                Some(made.map_err(|error| {
                    ConfigError::new("SMTP_URL", format!("TLS is not possible: {error}"))
                })?)
            }
        };
        let login = config
            .login
            .as_ref()
            .map(|(user, password)| Credentials::new(user.clone(), password.expose().to_owned()));
        Ok(Self {
            host: config.host.clone(),
            port: config.port,
            security: config.security,
            tls,
            login,
        })
    }

    /// Connects and logs in. What fails here is about the server, not about a mail.
    pub async fn connect(&self) -> Result<Session, Problem> {
        let connected = tokio::time::timeout(WHOLE, self.try_connect()).await;
        match connected {
            Ok(Ok(connection)) => Ok(Session(connection)),
            Ok(Err(error)) => Err(Problem::Unreachable(one_line(&error))),
            Err(_) => Err(Problem::Unreachable(unanswered())),
        }
    }

    async fn try_connect(&self) -> Result<AsyncSmtpConnection, smtp::Error> {
        let name = ClientId::default();
        let (wrapper, upgrade) = match self.security {
            SmtpSecurity::Tls => (self.tls.clone(), None),
            SmtpSecurity::StartTls => (None, self.tls.clone()),
            SmtpSecurity::None => (None, None),
        };
        let address = (self.host.as_str(), self.port);
        let connecting =
            AsyncSmtpConnection::connect_tokio1(address, Some(WHOLE), &name, wrapper, None);
        let mut connection = connecting.await?;
        if let Some(tls) = upgrade {
            connection.starttls(tls, &name).await?;
        }
        if let Some(login) = &self.login {
            let mechanisms = [Mechanism::Plain, Mechanism::Login];
            connection.auth(&mechanisms, login).await?;
        }
        Ok(connection)
    }
}

/// A connection that is logged in. After a problem it is of no more use.
pub struct Session(AsyncSmtpConnection);

impl Session {
    pub async fn send(&mut self, message: &Message) -> Result<(), Problem> {
        let bytes = message.formatted();
        let sending = self.0.send(message.envelope(), &bytes);
        match tokio::time::timeout(WHOLE, sending).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(judge(&error)),
            Err(_) => Err(Problem::PutOff(unanswered())),
        }
    }

    /// Says good-bye, as long as somebody listens.
    pub async fn close(mut self) {
        let _ = tokio::time::timeout(Duration::from_secs(2), self.0.quit()).await;
    }
}

/// What the server's answer to a mail means for it.
fn judge(error: &smtp::Error) -> Problem {
    let said = one_line(error);
    // 421 is no answer to the mail: the server is about to close.
    let closing = error.status().is_some_and(|code| u16::from(code) == 421);
    if closing || error.is_transport_shutdown() {
        Problem::Unreachable(said)
    } else if error.is_permanent() || error.is_client() {
        Problem::Refused(said)
    } else {
        Problem::PutOff(said)
    }
}

fn unanswered() -> String {
    format!("no answer within {} seconds", WHOLE.as_secs())
}

/// What went wrong, without what could move a terminal.
fn one_line(error: &smtp::Error) -> String {
    let text = error.to_string();
    let line = text.split(char::is_control).map(str::trim);
    let line: Vec<&str> = line.filter(|part| !part.is_empty()).collect();
    line.join(" ").chars().take(LONGEST_ERROR).collect()
}
