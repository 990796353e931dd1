//! A server of nothing, which attacks may be sent to instead: what the control notices
//! then is what the attackers themselves take of this machine.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}";
const END_OF_HEAD: &[u8] = b"\r\n\r\n";

/// Listens until this process ends.
pub fn listen() -> SocketAddr {
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let mut building = tokio::runtime::Builder::new_current_thread();
        let runtime = building.enable_all().build().unwrap();
        runtime.block_on(async move {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            tell.send(listener.local_addr().unwrap()).unwrap();
            loop {
                if let Ok((stream, _)) = listener.accept().await {
                    tokio::spawn(answer(stream));
                }
            }
        });
    });
    told.recv().unwrap()
}

/// Every head, without looking at it.
async fn answer(mut stream: TcpStream) {
    let mut bytes = vec![0; 16 * 1024];
    while let Ok(read) = stream.read(&mut bytes).await {
        if read == 0 {
            return;
        }
        let ends = bytes[..read].windows(4).filter(|end| *end == END_OF_HEAD);
        if stream
            .write_all(&ANSWER.repeat(ends.count()))
            .await
            .is_err()
        {
            return;
        }
    }
}
