//! What the fake provider does with one request, down to the bytes.

use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::sync::watch;

/// A door that the test opens: a reply waits behind it.
#[derive(Clone)]
pub struct Gate(Arc<watch::Sender<bool>>);

impl Gate {
    /// A closed door.
    pub fn new() -> Self {
        Self(Arc::new(watch::Sender::new(false)))
    }

    /// Lets everybody through from now on.
    pub fn open(&self) {
        self.0.send_replace(true);
    }

    pub(super) async fn wait(&self) {
        let _ = self.0.subscribe().wait_for(|open| *open).await;
    }
}

/// One move on the wire.
#[derive(Clone)]
pub(super) enum Step {
    Send(Arc<Vec<u8>>),
    Pause(Duration),
    Hold(Gate),
    Hang,
    Close,
    Reset,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Framing {
    Length,
    Chunked,
    Close,
}

/// How a body goes wrong.
#[derive(Clone)]
enum Fate {
    Whole,
    CutAfter(usize),
    ResetAfter(usize),
    HangAfter(usize),
    CutAtByte(usize),
}

/// A scripted answer.
#[derive(Clone)]
pub struct Reply {
    status: u16,
    headers: Vec<(String, String)>,
    pieces: Vec<Vec<u8>>,
    framing: Framing,
    before_head: Vec<Step>,
    before_piece: Vec<(usize, Step)>,
    between: Option<Duration>,
    fate: Fate,
    raw: Option<Vec<Step>>,
    pub(super) reads_body: bool,
    pub(super) closes: bool,
}

impl Reply {
    /// An answer without a body.
    pub fn status(status: u16) -> Self {
        Self {
            status,
            headers: Vec::new(),
            pieces: Vec::new(),
            framing: Framing::Length,
            before_head: Vec::new(),
            before_piece: Vec::new(),
            between: None,
            fate: Fate::Whole,
            raw: None,
            reads_body: true,
            closes: false,
        }
    }

    /// A JSON answer with `Content-Length`.
    pub fn json(status: u16, value: &Value) -> Self {
        Self::status(status)
            .header("Content-Type", "application/json")
            .body(value.to_string().into_bytes())
    }

    /// An error object of the OpenAI dialect.
    pub fn openai_error(status: u16, kind: &str, code: &str) -> Self {
        let error = serde_json::json!({"message": format!("the provider says {code}"), "type": kind, "param": null, "code": code});
        Self::json(status, &serde_json::json!({"error": error}))
    }

    /// An error object of the Anthropic dialect.
    pub fn anthropic_error(status: u16, kind: &str) -> Self {
        let error = serde_json::json!({"type": kind, "message": format!("the provider says {kind}")});
        Self::json(
            status,
            &serde_json::json!({"type": "error", "error": error, "request_id": "req_fake"}),
        )
    }

    /// A stream of events, chunked, one piece each; each text is a block without its empty line.
    pub fn events<S: AsRef<str>>(blocks: &[S]) -> Self {
        let mut reply = Self::status(200)
            .header("Content-Type", "text/event-stream")
            .chunked();
        reply.pieces = blocks
            .iter()
            .map(|block| format!("{}\n\n", block.as_ref()).into_bytes())
            .collect();
        reply
    }

    /// Bytes as they are instead of HTTP, then a close.
    pub fn raw(bytes: impl Into<Vec<u8>>) -> Self {
        Self {
            raw: Some(vec![Step::Send(Arc::new(bytes.into())), Step::Close]),
            ..Self::status(0)
        }
    }

    /// Stays silent behind raw bytes instead of closing.
    pub fn then_hang(mut self) -> Self {
        if let Some(last) = self.raw.as_mut().and_then(|steps| steps.last_mut()) {
            *last = Step::Hang;
        }
        self
    }

    /// A close without an answer.
    pub fn close() -> Self {
        Self {
            raw: Some(vec![Step::Close]),
            ..Self::status(0)
        }
    }

    /// A reset without an answer.
    pub fn reset() -> Self {
        Self {
            raw: Some(vec![Step::Reset]),
            ..Self::status(0)
        }
    }

    /// Silence until the client leaves.
    pub fn hang() -> Self {
        Self {
            raw: Some(vec![Step::Hang]),
            ..Self::status(0)
        }
    }

    /// Adds a field.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// The body in one piece.
    pub fn body(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.pieces = vec![bytes.into()];
        self
    }

    /// The body in pieces.
    pub fn pieces(mut self, pieces: Vec<Vec<u8>>) -> Self {
        self.pieces = pieces;
        self
    }

    /// Frames the body in chunks, one a piece.
    pub fn chunked(mut self) -> Self {
        self.framing = Framing::Chunked;
        self
    }

    /// Ends the body by closing the connection.
    pub fn until_close(mut self) -> Self {
        self.framing = Framing::Close;
        self
    }

    /// Waits before the head.
    pub fn head_after(mut self, wait: Duration) -> Self {
        self.before_head.push(Step::Pause(wait));
        self
    }

    /// Waits for the door before the head.
    pub fn head_behind(mut self, gate: &Gate) -> Self {
        self.before_head.push(Step::Hold(gate.clone()));
        self
    }

    /// Waits for the door before the piece with this index (counted from 0).
    pub fn piece_behind(mut self, piece: usize, gate: &Gate) -> Self {
        self.before_piece.push((piece, Step::Hold(gate.clone())));
        self
    }

    /// Waits between pieces.
    pub fn every(mut self, wait: Duration) -> Self {
        self.between = Some(wait);
        self
    }

    /// Closes after so many pieces.
    pub fn cut_after(mut self, pieces: usize) -> Self {
        self.fate = Fate::CutAfter(pieces);
        self
    }

    /// Resets after so many pieces.
    pub fn reset_after(mut self, pieces: usize) -> Self {
        self.fate = Fate::ResetAfter(pieces);
        self
    }

    /// Falls silent after so many pieces.
    pub fn hang_after(mut self, pieces: usize) -> Self {
        self.fate = Fate::HangAfter(pieces);
        self
    }

    /// Closes after so many bytes of the (one-piece) body.
    pub fn cut_at_byte(mut self, bytes: usize) -> Self {
        self.fate = Fate::CutAtByte(bytes);
        self
    }

    /// Closes the connection after a whole answer, without having said so.
    pub fn then_close(mut self) -> Self {
        self.closes = true;
        self
    }

    /// Answers as soon as the head is read.
    pub fn before_body(mut self) -> Self {
        self.reads_body = false;
        self
    }

    fn head(&self) -> Vec<u8> {
        let mut head = format!("HTTP/1.1 {} Scripted\r\n", self.status);
        for (name, value) in &self.headers {
            let _ = write!(head, "{name}: {value}\r\n");
        }
        match self.framing {
            Framing::Length => {
                let length: usize = self.pieces.iter().map(Vec::len).sum();
                let _ = write!(head, "Content-Length: {length}\r\n");
            }
            Framing::Chunked => head.push_str("Transfer-Encoding: chunked\r\n"),
            Framing::Close => head.push_str("Connection: close\r\n"),
        }
        head.push_str("\r\n");
        head.into_bytes()
    }

    fn framed(&self, piece: &[u8]) -> Vec<u8> {
        if self.framing != Framing::Chunked {
            return piece.to_vec();
        }
        let mut framed = format!("{:x}\r\n", piece.len()).into_bytes();
        framed.extend_from_slice(piece);
        framed.extend_from_slice(b"\r\n");
        framed
    }

    /// The moves, in order. `head_only` answers a `HEAD`.
    pub(super) fn steps(&self, head_only: bool) -> Vec<Step> {
        if let Some(raw) = &self.raw {
            return self
                .before_head
                .iter()
                .cloned()
                .chain(raw.iter().cloned())
                .collect();
        }
        let mut steps = self.before_head.clone();
        steps.push(Step::Send(Arc::new(self.head())));
        if head_only {
            return steps;
        }
        for (index, piece) in self.pieces.iter().enumerate() {
            match self.fate {
                Fate::CutAfter(count) if count == index => return and(steps, Step::Close),
                Fate::ResetAfter(count) if count == index => return and(steps, Step::Reset),
                Fate::HangAfter(count) if count == index => return and(steps, Step::Hang),
                Fate::CutAtByte(bytes) => {
                    steps.push(Step::Send(Arc::new(
                        self.framed(&piece[..bytes.min(piece.len())]),
                    )));
                    return and(steps, Step::Close);
                }
                _ => {}
            }
            if index > 0
                && let Some(wait) = self.between
            {
                steps.push(Step::Pause(wait));
            }
            steps.extend(
                self.before_piece
                    .iter()
                    .filter(|(at, _)| *at == index)
                    .map(|(_, step)| step.clone()),
            );
            steps.push(Step::Send(Arc::new(self.framed(piece))));
        }
        match self.fate {
            Fate::CutAfter(_) => steps.push(Step::Close),
            Fate::ResetAfter(_) => steps.push(Step::Reset),
            Fate::HangAfter(_) => steps.push(Step::Hang),
            _ => {}
        }
        match self.framing {
            Framing::Chunked => steps.push(Step::Send(Arc::new(b"0\r\n\r\n".to_vec()))),
            Framing::Close => steps.push(Step::Close),
            Framing::Length => {}
        }
        if self.closes {
            steps.push(Step::Close);
        }
        steps
    }
}

fn and(mut steps: Vec<Step>, last: Step) -> Vec<Step> {
    steps.push(last);
    steps
}
