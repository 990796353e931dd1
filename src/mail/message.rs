//! A rendered mail as a message of the Internet.

use lettre::Message;
use lettre::message::header::{HeaderName, HeaderValue};
use lettre::message::{Mailbox, MultiPart};
use uuid::Uuid;

use super::templates::Rendered;

/// So that no answering machine answers.
const AUTO_SUBMITTED: HeaderName = HeaderName::new_from_ascii_str("Auto-Submitted");
const NO_REPLY: HeaderName = HeaderName::new_from_ascii_str("X-Auto-Response-Suppress");

/// Why no message can be made.
#[derive(Debug, thiserror::Error)]
pub enum MessageError {
    /// The address is the organization's own, and is not repeated.
    #[error("the organization's e-mail address is none that a mail can be sent to")]
    Address,
    #[error("the message cannot be made: {0}")]
    Message(#[from] lettre::error::Error),
}

/// The message for `recipient`. Its id is the same however often it is sent.
pub fn message(
    id: Uuid,
    from: &Mailbox,
    recipient: &str,
    rendered: Rendered,
) -> Result<Message, MessageError> {
    let to = recipient.parse().map_err(|_| MessageError::Address)?;
    let built = Message::builder()
        .from(from.clone())
        .to(Mailbox::new(None, to))
        .subject(rendered.subject)
        .message_id(Some(format!("<{id}@{}>", from.email.domain())))
        .raw_header(HeaderValue::new(
            AUTO_SUBMITTED,
            "auto-generated".to_owned(),
        ))
        .raw_header(HeaderValue::new(NO_REPLY, "All".to_owned()))
        .multipart(MultiPart::alternative_plain_html(
            rendered.text,
            rendered.html,
        ))?;
    Ok(built)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(recipient: &str, subject: &str) -> Result<String, MessageError> {
        let rendered = Rendered {
            subject: subject.to_owned(),
            text: "Grüße".to_owned(),
            html: "<p>Grüße</p>".to_owned(),
        };
        let from = "Acme <billing@acme.example>".parse().unwrap();
        let message = message(Uuid::nil(), &from, recipient, rendered)?;
        Ok(String::from_utf8(message.formatted()).unwrap())
    }

    #[test]
    fn a_message_says_that_a_program_wrote_it_and_which_it_is() {
        let text = of("pay@example.com", "Zahlung über 9 €").unwrap();
        for line in [
            "From: Acme <billing@acme.example>\r\n",
            "To: pay@example.com\r\n",
            "Message-ID: <00000000-0000-0000-0000-000000000000@acme.example>\r\n",
            "Auto-Submitted: auto-generated\r\n",
            "Content-Type: multipart/alternative;",
            "Content-Type: text/plain; charset=utf-8\r\n",
            "Content-Type: text/html; charset=utf-8\r\n",
            "Subject: Zahlung =?utf-8?",
        ] {
            assert!(text.contains(line), "{line}\n{text}");
        }
        assert!(text.is_ascii(), "{text}");
    }

    #[test]
    fn no_header_is_smuggled_in() {
        assert!(matches!(
            of("a@b.example>\r\nBcc: <c@d.example", "x"),
            Err(MessageError::Address)
        ));
        assert!(of("a@b.example, c@d.example", "x").is_err());
    }
}
