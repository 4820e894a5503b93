//! The cloud's end of tunnels: it answers the upgrade as it is told, and then does its part.

pub(crate) mod frames;

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf, split};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_util::sync::CancellationToken;

use crate::network::{Network, Socket, Zone};
use crate::places;
use crate::side::{End, Heard, Left, Part, Reader, Shared, Stream, note, wait_for_end};
use frames::{Decoder, Item, Kind, frame};

/// How long the cloud waits for an answer to its Close, and for an end after that.
const PATIENCE: Duration = Duration::from_secs(900);
/// Bytes of a request at most.
const HEAD_LIMIT: usize = 8 << 10;
const SUBPROTOCOL: &str = "binary";
const DEVICE_PATH: &str = "GET /service/remoteaccess/device/";

/// How the cloud answers the upgrade for one connection key.
#[derive(Clone, Debug)]
pub(crate) enum Answer {
    /// It opens the WebSocket after a while.
    Opens(Duration, Part, Style),
    /// It answers with an HTTP status after a while. The key stays unused.
    Status(u16, Duration),
    Silence,
    /// It says what is no HTTP.
    Rubbish,
    /// It hangs up without a word.
    HangsUp,
    Resets,
    /// It answers the challenge with another's answer.
    WrongAccept,
}

/// How the cloud puts what it says into frames.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Style {
    /// The largest body of a frame.
    pub(crate) frame: usize,
    pub(crate) is_text: bool,
    /// Each message comes in several frames.
    pub(crate) fragments: bool,
    /// A ping stands before every frame.
    pub(crate) pings: bool,
}

/// One operation's place in the cloud.
#[derive(Clone)]
pub(crate) struct Place {
    pub(crate) answer: Answer,
    /// The stream that comes from the machine.
    pub(crate) hears: Stream,
    pub(crate) notes: Shared,
}

struct Slot {
    number: usize,
    place: Place,
    is_used: bool,
}

/// The cloud. Clones are the same.
#[derive(Clone)]
pub(crate) struct Cloud {
    network: Network,
    places: Arc<Mutex<BTreeMap<String, Slot>>>,
    farewell: CancellationToken,
    is_authorized: Arc<dyn Fn(&str) -> bool + Send + Sync>,
}

impl Cloud {
    /// Serves whoever shows a header that is good.
    pub(crate) fn new(
        network: Network,
        farewell: CancellationToken,
        is_authorized: impl Fn(&str) -> bool + Send + Sync + 'static,
    ) -> Self {
        Self {
            network,
            places: Arc::default(),
            farewell,
            is_authorized: Arc::new(is_authorized),
        }
    }

    /// Expects the socket of an operation.
    pub(crate) fn expect(&self, key: &str, number: usize, place: Place) {
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        let slot = Slot {
            number,
            place,
            is_used: false,
        };
        places.insert(key.to_owned(), slot);
    }

    /// Serves for ever.
    pub(crate) async fn serve(self) {
        let listener = self.network.listen(Zone::Cloud, places::CLOUD);
        loop {
            let socket = listener.accept().await;
            let cloud = self.clone();
            self.network
                .spawn(async move { cloud.connection(socket).await });
        }
    }

    async fn connection(&self, mut socket: Socket) {
        let Some((head, rest)) = read_head(&mut socket).await else {
            return;
        };
        if !(self.is_authorized)(header(&head, "authorization").unwrap_or_default()) {
            return refuse(socket, 401, "who are you").await;
        }
        let key = head.strip_prefix(DEVICE_PATH);
        let key = key
            .and_then(|rest| rest.split(' ').next())
            .unwrap_or_default();
        let place = {
            let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
            places.get_mut(key).map(|slot| {
                // Whoever is refused may come again.
                let uses_up = !matches!(slot.place.answer, Answer::Status(..));
                let was_used = slot.is_used;
                slot.is_used |= uses_up;
                (slot.number, slot.place.clone(), was_used)
            })
        };
        let Some((number, place, was_used)) = place else {
            return refuse(socket, 404, "nobody").await;
        };
        note(&place.notes, |notes| {
            notes.visits += 1;
            notes.connection = notes.connection.or(Some(socket.connection()));
        });
        if was_used {
            return refuse(socket, 409, "The connection key was used").await;
        }
        match place.answer.clone() {
            Answer::Status(status, after) => {
                sleep(after).await;
                refuse(socket, status, &format!("mark {number}.")).await;
            }
            Answer::Silence => {
                let mut nothing = [0; 64];
                while let Ok(1..) = socket.read(&mut nothing).await {}
            }
            Answer::Rubbish => {
                let _ = socket
                    .write_all(b"\x16\x03\x01\0\xffSSH-2.0-not-http\r\n\r\n")
                    .await;
                finish(socket).await;
            }
            Answer::HangsUp => {}
            Answer::Resets => socket.reset_when_closed(),
            Answer::WrongAccept => {
                let _ = socket
                    .write_all(upgrade("x3JJHMbDL1EzLkh9GBhXDw==", SUBPROTOCOL).as_bytes())
                    .await;
                finish(socket).await;
            }
            Answer::Opens(after, part, style) => {
                sleep(after).await;
                let opening = opening(&head, SUBPROTOCOL);
                let opened = socket.write_all(opening.as_bytes()).await;
                note(&place.notes, |notes| {
                    notes.connection = Some(socket.connection());
                    notes.began = Some(Instant::now());
                    notes.stands = opened.is_ok();
                    notes.opening = opening.len() as u64;
                });
                self.play(socket, number, &part, style, &place, rest).await;
                note(&place.notes, |notes| notes.over = Some(Instant::now()));
            }
        }
    }

    async fn play(
        &self,
        socket: Socket,
        number: usize,
        part: &Part,
        style: Style,
        place: &Place,
        rest: Vec<u8>,
    ) {
        let connection = socket.connection();
        let notes = &place.notes;
        let (read, mut write) = split(socket);
        let mut hearing = Hearing {
            reader: Reader::new(read, part.pace),
            decoder: Decoder::default(),
            stream: place.hears,
            rest,
        };
        let control = Control::default();
        let mut out = Out {
            write: &mut write,
            control: &control,
            style,
            rest: Vec::new(),
        };
        let left = tokio::select! {
            biased;
            left = out.act(part, number, notes, &self.farewell) => (left, true),
            heard = hearing.hear(notes, &control) => match heard {
                Heard::Reset => (End::Reset(Duration::ZERO), false),
                Heard::End => (End::Cut(Duration::ZERO), false),
                Heard::Close(_) | Heard::Nonsense => (End::InOrder(Duration::ZERO), false),
            },
        };
        let (left, is_own) = left;
        let (at, how) = (Instant::now(), left);
        note(notes, |notes| notes.left = Some(Left { at, how, is_own }));
        crate::note!(
            self.network.trace(),
            "cloud",
            "end {number} ends {connection}: {left:?}"
        );
        let mut bytes = Vec::new();
        match left {
            End::InOrder(_) | End::Stays => {
                // An answer to the Close of adit, where that came first.
                let answer = note(notes, |notes| match notes.told {
                    Some((_, Heard::Close(code))) => code,
                    _ => 1000,
                });
                frame(&mut bytes, Kind::Close, true, &answer.to_be_bytes());
            }
            End::CutWithinFrame(_) => {
                frame(&mut bytes, Kind::Binary, true, &[0; 1000]);
                bytes.truncate(2);
            }
            End::Violation(_) => frame(&mut bytes, Kind::Continuation, true, b"nothing before"),
            End::Reset(_) | End::Cut(_) => {}
        }
        if !bytes.is_empty() {
            let written = timeout(PATIENCE, out.flush_and(&bytes)).await;
            if matches!(left, End::InOrder(_)) && written.is_ok() {
                let is_told = note(notes, |notes| notes.told.is_some());
                if !is_told {
                    let _ = timeout(PATIENCE, hearing.hear(notes, &control)).await;
                }
            }
        }
        if let End::Reset(_) = left {
            let socket = hearing.reader.into_inner().unsplit(write);
            return socket.reset_when_closed();
        }
        let _ = write.shutdown().await;
        // To the end, or closing would become a reset.
        let ending = async { while let Ok([_, ..]) = hearing.reader.read().await {} };
        let _ = timeout(PATIENCE, ending).await;
    }
}

/// What is to be written besides the user's bytes.
#[derive(Default)]
struct Control {
    queue: Mutex<VecDeque<Vec<u8>>>,
    filled: Notify,
}

impl Control {
    fn push(&self, kind: Kind, body: &[u8]) {
        let mut bytes = Vec::new();
        frame(&mut bytes, kind, true, body);
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        queue.push_back(bytes);
        self.filled.notify_one();
    }

    fn pop(&self) -> Option<Vec<u8>> {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        queue.pop_front()
    }
}

struct Out<'a> {
    write: &'a mut WriteHalf<Socket>,
    control: &'a Control,
    style: Style,
    /// What is to be written next.
    rest: Vec<u8>,
}

impl Out<'_> {
    /// Says all and waits for its time; answers pings all the while.
    async fn act(
        &mut self,
        part: &Part,
        number: usize,
        notes: &Shared,
        farewell: &CancellationToken,
    ) -> End {
        for piece in &part.says {
            self.wait(Instant::now() + piece.after).await;
            let said = note(notes, |notes| notes.said);
            let bytes = Stream::down(number).bytes(said, piece.bytes);
            for body in bytes.chunks(self.style.frame.max(1)) {
                // Whatever comes in between, what was begun is said to its end.
                note(notes, |notes| notes.said += body.len() as u64);
                if !self.say(body).await {
                    // Reading tells how it ended.
                    std::future::pending::<()>().await;
                }
            }
        }
        note(notes, |notes| notes.said_all = true);
        let mut ending = std::pin::pin!(wait_for_end(part.end, farewell));
        loop {
            self.answer_all().await;
            tokio::select! {
                biased;
                end = &mut ending => return end,
                () = self.control.filled.notified() => {}
            }
        }
    }

    async fn wait(&mut self, until: Instant) {
        loop {
            self.answer_all().await;
            tokio::select! {
                biased;
                () = sleep_until(until) => return,
                () = self.control.filled.notified() => {}
            }
        }
    }

    async fn answer_all(&mut self) {
        while let Some(bytes) = self.control.pop() {
            self.rest.extend(bytes);
        }
        self.write_rest().await;
    }

    /// Writes what is left; whoever drops the future half-way leaves the rest for later. False if
    /// nobody takes it.
    async fn write_rest(&mut self) -> bool {
        while !self.rest.is_empty() {
            match self.write.write(&self.rest).await {
                Ok(count @ 1..) => drop(self.rest.drain(..count)),
                Ok(0) | Err(_) => return false,
            }
        }
        true
    }

    /// Says one frame.
    async fn say(&mut self, body: &[u8]) -> bool {
        self.answer_all().await;
        let mut bytes = Vec::new();
        if self.style.pings {
            frame(&mut bytes, Kind::Ping, true, b"there?");
        }
        let first = if self.style.is_text {
            Kind::Text
        } else {
            Kind::Binary
        };
        if self.style.fragments {
            let (head, tail) = body.split_at(body.len() / 2);
            frame(&mut bytes, first, false, head);
            // Control frames stand between fragments as they like.
            frame(&mut bytes, Kind::Pong, true, b"");
            frame(&mut bytes, Kind::Continuation, false, tail);
            frame(&mut bytes, Kind::Continuation, true, b"");
        } else {
            frame(&mut bytes, first, true, body);
        }
        self.rest.extend(bytes);
        self.write_rest().await
    }

    /// Answers what is to be answered, and says the last.
    async fn flush_and(&mut self, bytes: &[u8]) {
        self.answer_all().await;
        self.rest.extend(bytes);
        self.write_rest().await;
    }
}

struct Hearing {
    reader: Reader<ReadHalf<Socket>>,
    decoder: Decoder,
    stream: Stream,
    /// What came behind the request.
    rest: Vec<u8>,
}

impl Hearing {
    /// Takes note of what comes, to the end.
    async fn hear(&mut self, notes: &Shared, control: &Control) -> Heard {
        let heard = loop {
            let mut items = self.decoder.feed(&std::mem::take(&mut self.rest));
            if items.is_empty() {
                match self.reader.read().await {
                    Ok([]) => break Heard::End,
                    Ok(bytes) => items = self.decoder.feed(bytes),
                    Err(_) => break Heard::Reset,
                }
            }
            let mut end = None;
            for item in items {
                match item {
                    Item::Data(bytes) => self.stream.hear(notes, &bytes),
                    Item::Ping(body) => control.push(Kind::Pong, &body),
                    Item::Pong => {}
                    Item::Close(body) => end = Some(Heard::Close(code(&body))),
                    Item::Nonsense => end = Some(Heard::Nonsense),
                }
                if end.is_some() {
                    break;
                }
            }
            if let Some(end) = end {
                break end;
            }
        };
        note(notes, |notes| notes.told = Some((Instant::now(), heard)));
        heard
    }
}

/// The code of a Close frame; 1005 stands for none.
fn code(body: &[u8]) -> u16 {
    const NONE: u16 = 1005;
    body.first_chunk()
        .map_or(NONE, |&code| u16::from_be_bytes(code))
}

/// Reads the head of a request and what comes behind it.
pub(crate) async fn read_head(socket: &mut Socket) -> Option<(String, Vec<u8>)> {
    let mut bytes = Vec::new();
    loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            let rest = bytes.split_off(end + 4);
            return Some((String::from_utf8_lossy(&bytes).into_owned(), rest));
        }
        if bytes.len() > HEAD_LIMIT {
            return None;
        }
        match socket.read_buf(&mut bytes).await {
            Ok(1..) => {}
            Ok(0) | Err(_) => return None,
        }
    }
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let mut lines = head.lines().filter_map(|line| line.split_once(": "));
    lines
        .find(|(other, _)| other.eq_ignore_ascii_case(name))
        .map(|(_, value)| value)
}

/// Returns the answer that opens a WebSocket.
pub(crate) fn opening(request: &str, subprotocol: &str) -> String {
    let challenge = header(request, "sec-websocket-key").unwrap_or_default();
    upgrade(&derive_accept_key(challenge.as_bytes()), subprotocol)
}

fn upgrade(accept: &str, subprotocol: &str) -> String {
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Accept: {accept}\r\nSec-WebSocket-Protocol: {subprotocol}\r\n\r\n"
    )
}

async fn refuse(mut socket: Socket, status: u16, message: &str) {
    let body = format!(r#"{{"error":"general/weather","message":"{message}"}}"#);
    let answer = format!(
        "HTTP/1.1 {status} As Asked\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n{body}",
        body.len()
    );
    let _ = socket.write_all(answer.as_bytes()).await;
    finish(socket).await;
}

/// Ends a connection without a reset.
async fn finish(mut socket: Socket) {
    let _ = socket.shutdown().await;
    let mut nothing = [0; 1024];
    let ending = async { while let Ok(1..) = socket.read(&mut nothing).await {} };
    let _ = timeout(PATIENCE, ending).await;
}
