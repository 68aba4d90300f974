#!/usr/bin/env python3
"""Plays `vllm serve` for tests: the same flags, OpenAI's answers made up at once, and bad manners on request.

--fake NAME=MANNER[,NAME=MANNER]: NAME is a scheme that the flags ask for (tp1, tp2, pp2, dp2), MANNER is crash
(ends at once with a traceback), silent (never listens), refuses (lists models, fails the first request and ends),
dies (ends in the middle of the third stream), key (401), other (each answer is another text).
"""
import json
import os
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def value(flag, default):
    return sys.argv[sys.argv.index(flag) + 1] if flag in sys.argv else default


sizes = {s: int(value(f, 1)) for s, f in (("tp", "--tensor-parallel-size"), ("pp", "--pipeline-parallel-size"),
                                          ("dp", "--data-parallel-size"))}
scheme = "".join(f"{k}{v}" for k, v in sizes.items() if v > 1) or "tp1"
manners = dict(pair.split("=") for pair in value("--fake", "").split(",") if pair)
manner = manners.get(scheme, "")
streams = 0
lock = threading.Lock()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def reply(self, status, body):
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self):
        if manner == "key":
            return self.reply(401, {"error": {"message": "Unauthorized"}})
        if self.path == "/v1/models":
            return self.reply(200, {"object": "list", "data": [{"id": sys.argv[2], "object": "model"}]})
        return self.reply(200, {})

    def do_POST(self):
        global streams
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if manner == "refuses":
            self.reply(500, {"error": {"message": "EngineDeadError"}})
            print("RuntimeError: no experts here", flush=True)
            os._exit(1)
        count = request.get("max_tokens", 16)
        text = scheme if manner == "other" else "same"
        usage = {"prompt_tokens": len(request["prompt"]), "completion_tokens": count,
                 "total_tokens": len(request["prompt"]) + count}
        if not request.get("stream"):
            choice = {"index": 0, "text": text * count, "finish_reason": "length"}
            if request.get("logprobs") is not None:
                tokens = [text] * count
                choice["logprobs"] = {"tokens": tokens, "token_logprobs": [-0.5] * count,
                                      "top_logprobs": [{"same": -0.5, "pp2": -0.6}] * count,
                                      "text_offset": [0] * count}
            return self.reply(200, {"choices": [choice], "usage": usage})
        with lock:
            streams += 1
            if manner == "dies" and streams > 2:
                print("ValueError: the third stream was too much", flush=True)
                os._exit(3)
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        for i in range(count):
            finish = "length" if i + 1 == count else None
            self.event({"choices": [{"index": 0, "text": "a", "finish_reason": finish}]})
        self.event({"choices": [], "usage": usage})
        self.wfile.write(b"data: [DONE]\n\n")
        self.close_connection = True

    def event(self, body):
        self.wfile.write(f"data: {json.dumps(body)}\n\n".encode())
        self.wfile.flush()


print(f"devices {os.environ.get('VLLM_CPU_OMP_THREADS_BIND')}", flush=True)
if manner == "crash":
    print("Traceback (most recent call last):\nValueError: 3 heads cannot be divided by 2", flush=True)
    sys.exit(1)
if manner == "silent":
    while True:
        time.sleep(3600)
ThreadingHTTPServer(("127.0.0.1", int(value("--port", "8000"))), Handler).serve_forever()
