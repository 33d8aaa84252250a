//! One message to one name server, and its answer: over UDP (RFC 1035 §4.2.1), or over TCP
//! (§4.2.2) where that is asked for or the answer does not fit.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use hickory_proto::op::{Edns, Message, Query, ResponseCode};
use hickory_proto::rr::{Name, RecordType};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

/// Why a name server gave no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum ExchangeError {
    /// The network's word.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// An answer that is no DNS.
    #[error("its answer cannot be read: {0}")]
    Malformed(String),
    /// An answer that says it will not answer.
    #[error("it answers {0}")]
    Refused(ResponseCode),
    /// Nothing.
    #[error("it does not answer")]
    Silent,
}

/// What a message is sent over.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Transport {
    Tcp,
    Udp,
}

/// How often a datagram is sent, and how long each is waited for: one of them may get lost.
const ATTEMPTS: u32 = 3;
const WAIT: Duration = Duration::from_secs(2);

/// For a connection and all that is said over it.
const TCP_WAIT: Duration = Duration::from_secs(10);

/// Fits into what every path carries whole (RFC 9715).
const LARGEST_DATAGRAM: u16 = 1232;

/// Asks `server` for the records of that type at `name`, of a resolver with `recursive`. Answers
/// that say there are none are answers.
pub(super) async fn ask(
    server: SocketAddr,
    name: &Name,
    record_type: RecordType,
    recursive: bool,
) -> Result<Message, ExchangeError> {
    let mut question = Message::query();
    question.metadata.recursion_desired = recursive;
    question.add_query(Query::query(name.clone(), record_type));
    let mut edns = Edns::new();
    edns.set_max_payload(LARGEST_DATAGRAM);
    question.set_edns(edns);
    let request = question.to_vec().map_err(malformed)?;
    let mut answer = decode(&exchange(server, Transport::Udp, &request).await?)?;
    if answer.metadata.truncation {
        answer = decode(&exchange(server, Transport::Tcp, &request).await?)?;
    }
    let asked = |query: &Query| query.name == *name && query.query_type == record_type;
    match answer.metadata.response_code {
        ResponseCode::NoError | ResponseCode::NXDomain if answer.queries.iter().all(asked) => {
            Ok(answer)
        }
        ResponseCode::NoError | ResponseCode::NXDomain => {
            Err(ExchangeError::Malformed("it is about something else".to_owned()))
        }
        code => Err(ExchangeError::Refused(code)),
    }
}

/// Reads an answer.
pub(super) fn decode(answer: &[u8]) -> Result<Message, ExchangeError> {
    Message::from_vec(answer).map_err(malformed)
}

/// Sends `request` and answers the first message that answers it.
pub(super) async fn exchange(
    server: SocketAddr,
    transport: Transport,
    request: &[u8],
) -> Result<Vec<u8>, ExchangeError> {
    match transport {
        Transport::Tcp => {
            timeout(TCP_WAIT, over_tcp(server, request)).await.unwrap_or(Err(ExchangeError::Silent))
        }
        Transport::Udp => over_udp(server, request).await,
    }
}

async fn over_udp(server: SocketAddr, request: &[u8]) -> Result<Vec<u8>, ExchangeError> {
    let any: IpAddr = match server {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).await?;
    // The kernel drops what others send.
    socket.connect(server).await?;
    let mut buffer = vec![0; 1 << 16];
    for _ in 0..ATTEMPTS {
        socket.send(request).await?;
        let answer = async {
            loop {
                let length = socket.recv(&mut buffer).await?;
                if answers(request, &buffer[..length]) {
                    return Ok(length);
                }
            }
        };
        match timeout(WAIT, answer).await {
            Ok(Ok(length)) => {
                buffer.truncate(length);
                return Ok(buffer);
            }
            Ok(Err(error)) => return Err(ExchangeError::Io(error)),
            Err(_) => {}
        }
    }
    Err(ExchangeError::Silent)
}

async fn over_tcp(server: SocketAddr, request: &[u8]) -> Result<Vec<u8>, ExchangeError> {
    let length = u16::try_from(request.len())
        .map_err(|_| ExchangeError::Malformed("the question is too long".to_owned()))?;
    let mut stream = TcpStream::connect(server).await?;
    let mut framed = length.to_be_bytes().to_vec();
    framed.extend_from_slice(request);
    stream.write_all(&framed).await?;
    let mut answer = vec![0; stream.read_u16().await?.into()];
    stream.read_exact(&mut answer).await?;
    if !answers(request, &answer) {
        return Err(ExchangeError::Malformed("it belongs to another question".to_owned()));
    }
    Ok(answer)
}

/// Whether `answer` is a response with the id of `request` (RFC 1035 §4.1.1).
fn answers(request: &[u8], answer: &[u8]) -> bool {
    const HEADER: usize = 12;
    const RESPONSE: u8 = 0x80;
    answer.len() >= HEADER && answer[..2] == request[..2] && answer[2] & RESPONSE != 0
}

fn malformed(error: impl std::fmt::Display) -> ExchangeError {
    ExchangeError::Malformed(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_others_send_is_no_answer() {
        let server = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = server.local_addr().unwrap();
        let asking = tokio::spawn(async move {
            ask(address, &Name::from_ascii("a.example.").unwrap(), RecordType::TXT, false).await
        });
        let mut buffer = [0; 512];
        let (length, client) = server.recv_from(&mut buffer).await.unwrap();
        // Too short, not a response, another id, and at last the answer: no such name.
        let mut answer = buffer[..length].to_vec();
        server.send_to(&answer[..4], client).await.unwrap();
        server.send_to(&answer, client).await.unwrap();
        answer[2] |= 0x80;
        answer[3] |= 3;
        let mut other = answer.clone();
        other[0] ^= 1;
        server.send_to(&other, client).await.unwrap();
        server.send_to(&answer, client).await.unwrap();
        let message = asking.await.unwrap().unwrap();
        assert_eq!(message.metadata.response_code, ResponseCode::NXDomain);
    }

    #[tokio::test(start_paused = true)]
    async fn silence_has_an_end() {
        let server = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let name = Name::from_ascii("a.example.").unwrap();
        let asked = ask(server.local_addr().unwrap(), &name, RecordType::TXT, false).await;
        assert!(matches!(asked, Err(ExchangeError::Silent)), "{asked:?}");
    }

    #[tokio::test]
    async fn rubbish_is_refused() {
        for rubbish in [&b"\0"[..], b"\xff\xff", &[0xc0; 40]] {
            assert!(decode(rubbish).is_err());
        }
        assert!(!answers(&[0; 20], &[]));
    }
}
