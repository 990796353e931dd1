//! HTTP as it goes over the wire: what a well-behaved client would not send.

use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// Longer than any deadline of the service: a test that hangs should fail.
const PATIENCE: Duration = Duration::from_secs(40);

/// A connection to the service.
pub struct Wire {
    stream: TcpStream,
    unread: Vec<u8>,
}

/// An answer, read to its end.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Reply {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    /// The code of a problem; empty where it is none.
    pub fn code(&self) -> String {
        let problem = self.header("content-type") == Some("application/problem+json");
        if problem {
            self.json()["code"].as_str().unwrap_or_default().to_owned()
        } else {
            String::new()
        }
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (found, value) = line.split_once(": ")?;
            found.eq_ignore_ascii_case(name).then_some(value)
        })
    }
}

impl Wire {
    /// Connects to `base`, such as `http://127.0.0.1:8080`.
    pub async fn open(base: &str) -> Self {
        let address = base.strip_prefix("http://").expect("a plain URL");
        let stream = TcpStream::connect(address).await.expect("it listens");
        Self {
            stream,
            unread: Vec::new(),
        }
    }

    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_send(bytes).await.expect("it reads");
    }

    /// Fails once the service has closed the connection.
    pub async fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> std::io::Result<()> {
        self.stream.write_all(bytes.as_ref()).await
    }

    /// Whether an answer has begun to arrive.
    pub async fn has_answer(&mut self) -> bool {
        let mut byte = [0];
        let peeking = self.stream.peek(&mut byte);
        matches!(
            tokio::time::timeout(Duration::from_millis(1), peeking).await,
            Ok(Ok(1))
        )
    }

    /// The next answer. Ours all say how long they are.
    pub async fn answer(&mut self) -> Reply {
        let mut reply = self.answer_without_body().await;
        let length = reply.header("content-length").and_then(|n| n.parse().ok());
        let length: usize = length.expect("a length");
        while self.unread.len() < length {
            assert!(self.read_more().await, "the body ended early");
        }
        let body = self.unread.drain(..length).collect();
        reply.body = String::from_utf8(body).expect("bodies are text");
        reply
    }

    /// The next answer's head: all there is of an answer to HEAD.
    pub async fn answer_without_body(&mut self) -> Reply {
        let head_ends = loop {
            if let Some(at) = self.unread.windows(4).position(|w| w == b"\r\n\r\n") {
                break at + 4;
            }
            assert!(self.read_more().await, "the connection closed unanswered");
        };
        let head: Vec<u8> = self.unread.drain(..head_ends).collect();
        let head = String::from_utf8(head).expect("headers are text");
        Reply {
            status: head[9..12].parse().expect("a status"),
            head,
            body: String::new(),
        }
    }

    /// Waits until the service closes the connection; what it said before.
    pub async fn closed(mut self) -> String {
        while self.read_more().await {}
        String::from_utf8_lossy(&self.unread).into_owned()
    }

    async fn read_more(&mut self) -> bool {
        let reading = self.stream.read_buf(&mut self.unread);
        match tokio::time::timeout(PATIENCE, reading).await {
            Ok(read) => read.is_ok_and(|n| n > 0),
            Err(_) => panic!("no answer, and the connection stays open"),
        }
    }
}
