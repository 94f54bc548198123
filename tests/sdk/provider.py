"""A fake of the OpenAI and Anthropic APIs, from the standard library alone.

Run it with a port (0 = a free one); it prints its base URL and serves until it is stopped.
"""

import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

WORDS = ["hello", " from", " the", " provider"]
# what was asked for, model by model
ASKED = {}
USAGE = {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13}


def chat(model, tools):
    message = {"role": "assistant", "content": "".join(WORDS)}
    if tools:
        call = {"name": tools[0]["function"]["name"], "arguments": '{"city":"Paris"}'}
        message = {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "call_1", "type": "function", "function": call}],
        }
    choice = {"index": 0, "message": message, "finish_reason": "tool_calls" if tools else "stop"}
    return {"id": "chatcmpl-fake", "object": "chat.completion", "created": 1, "model": model, "choices": [choice], "usage": USAGE}


def chat_chunks(model, tools, with_usage):
    def chunk(delta, reason=None):
        choice = {"index": 0, "delta": delta, "finish_reason": reason}
        return {"id": "chatcmpl-fake", "object": "chat.completion.chunk", "created": 1, "model": model, "choices": [choice]}

    yield chunk({"role": "assistant", "content": ""})
    if tools:
        name = tools[0]["function"]["name"]
        head = {"index": 0, "id": "call_1", "type": "function", "function": {"name": name, "arguments": ""}}
        yield chunk({"tool_calls": [head]})
        for part in ['{"city":', '"Paris"}']:
            yield chunk({"tool_calls": [{"index": 0, "function": {"arguments": part}}]})
        yield chunk({}, "tool_calls")
    else:
        for word in WORDS:
            yield chunk({"content": word})
        yield chunk({}, "stop")
    if with_usage:
        yield {"id": "chatcmpl-fake", "object": "chat.completion.chunk", "created": 1, "model": model, "choices": [], "usage": USAGE}


def message(model, tools):
    content = [{"type": "text", "text": "".join(WORDS)}]
    if tools:
        content = [{"type": "tool_use", "id": "toolu_1", "name": tools[0]["name"], "input": {"city": "Paris"}}]
    return {
        "id": "msg_fake",
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": content,
        "stop_reason": "tool_use" if tools else "end_turn",
        "stop_sequence": None,
        "usage": {"input_tokens": 9, "output_tokens": 4},
    }


def message_events(model, tools):
    begun = message(model, None)
    begun.update(content=[], stop_reason=None)
    yield {"type": "message_start", "message": begun}
    if tools:
        block = {"type": "tool_use", "id": "toolu_1", "name": tools[0]["name"], "input": {}}
        deltas = [{"type": "input_json_delta", "partial_json": part} for part in ['{"city":', '"Paris"}']]
    else:
        block = {"type": "text", "text": ""}
        deltas = [{"type": "text_delta", "text": word} for word in WORDS]
    yield {"type": "content_block_start", "index": 0, "content_block": block}
    for delta in deltas:
        yield {"type": "content_block_delta", "index": 0, "delta": delta}
    yield {"type": "content_block_stop", "index": 0}
    stop = {"stop_reason": "tool_use" if tools else "end_turn", "stop_sequence": None}
    yield {"type": "message_delta", "delta": stop, "usage": {"output_tokens": 4}}
    yield {"type": "message_stop"}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, value, status=200):
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def stream(self, blocks):
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for block in blocks:
            data = (block + "\n\n").encode()
            self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
            self.wfile.flush()
        self.wfile.write(b"0\r\n\r\n")

    def read_json(self):
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            body = b""
            while size := int(self.rfile.readline().split(b";")[0], 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        return json.loads(body or b"{}")

    def do_GET(self):
        if self.path.split("?")[0] == "/v1/models":
            names = ["gpt-fake", "claude-fake"]
            data = [{"id": n, "object": "model", "created": 1, "owned_by": "fake", "type": "model", "display_name": n, "created_at": "2025-01-01T00:00:00Z"} for n in names]
            return self.answer({"object": "list", "data": data, "has_more": False, "first_id": names[0], "last_id": names[-1]})
        return self.answer({"error": {"message": "no such path", "type": "invalid_request_error", "param": None, "code": "unknown_url"}}, 404)

    def do_POST(self):
        body = self.read_json()
        model, tools, streaming = body.get("model", ""), body.get("tools"), body.get("stream")
        path = self.path.split("?")[0]
        ASKED.setdefault(model, []).append(self.headers.get("x-stainless-retry-count"))
        if model.startswith("down-"):
            error = {"message": "out of order", "type": "api_error", "param": None, "code": "out_of_order"}
            return self.answer({"type": "error", "error": error}, 500)
        if path == "/v1/chat/completions":
            if not streaming:
                return self.answer(chat(model, tools))
            with_usage = (body.get("stream_options") or {}).get("include_usage")
            blocks = ["data: " + json.dumps(chunk) for chunk in chat_chunks(model, tools, with_usage)]
            return self.stream(blocks + ["data: [DONE]"])
        if path == "/v1/messages":
            if not streaming:
                return self.answer(message(model, tools))
            return self.stream(f"event: {event['type']}\ndata: {json.dumps(event)}" for event in message_events(model, tools))
        if path == "/v1/messages/count_tokens":
            return self.answer({"input_tokens": 9})
        if path == "/v1/embeddings":
            data = [{"object": "embedding", "index": 0, "embedding": [0.25, -0.5]}]
            return self.answer({"object": "list", "model": model, "data": data, "usage": {"prompt_tokens": 9, "total_tokens": 9}})
        return self.answer({"error": {"message": "no such path", "type": "invalid_request_error", "param": None, "code": "unknown_url"}}, 404)


def start(port=0):
    """Serves on a thread of its own; answers the server and its base URL."""
    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server, f"http://127.0.0.1:{server.server_address[1]}"


if __name__ == "__main__":
    running, url = start(int(sys.argv[1]) if len(sys.argv) > 1 else 0)
    print(url, flush=True)
    threading.Event().wait()
