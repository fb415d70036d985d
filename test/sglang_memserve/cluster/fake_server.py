"""Stands in for an SGLang instance: listens, has a child process, and misbehaves as it is told to."""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.answer({"ok": True, "pid": os.getpid()})

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        with open(self.server.requests_log, "a") as log:
            log.write(self.path + "\n")
        self.answer({"text": "four"})

    def answer(self, body: dict) -> None:
        data = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--requests-log", default=os.devnull)
    parser.add_argument("--ignore-term", action="store_true")
    parser.add_argument("--crash", action="store_true", help="fail at once, with a traceback")
    parser.add_argument("--crash-if", help="fail if this file is there")
    args = parser.parse_args()
    print("server_args=ServerArgs(" + "x" * 5000 + " error)", flush=True)
    if args.crash or (args.crash_if and os.path.exists(args.crash_if)):
        raise RuntimeError("the weights are gone")
    if args.ignore_term:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    # The child ignores SIGTERM, as a scheduler in the middle of a forward pass would.
    code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
    child = subprocess.Popen([sys.executable, "-S", "-c", code])
    print(f"child {child.pid}", flush=True)
    time.sleep(0.1)
    server = ThreadingHTTPServer(("127.0.0.1", args.port), Handler)
    server.requests_log = args.requests_log
    server.serve_forever()


main()
