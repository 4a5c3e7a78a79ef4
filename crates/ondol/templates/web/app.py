"""A small web service: no dependencies, answers on $PORT, stops gracefully."""

import json
import os
import signal
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

VERSION = "1"


def greeting(name: str) -> str:
    return f"Hello, {name or 'world'}!"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Send small answers at once instead of waiting for more.
    wbufsize = -1
    disable_nagle_algorithm = True

    def do_GET(self):
        path = self.path.split("?", 1)[0]
        if path == "/healthz":
            self.answer(200, {"ok": True})
        elif path == "/version":
            self.answer(200, {"version": VERSION, "release": os.environ.get("ONDOL_RELEASE", "local")})
        else:
            self.answer(200, {"message": greeting(path.strip("/"))})

    def answer(self, status, body):
        payload = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(payload)))
        self.end_headers()
        self.wfile.write(payload)

    def log_message(self, format, *args):
        pass  # The gateway keeps the access log.


class Server(ThreadingHTTPServer):
    daemon_threads = False
    request_queue_size = 128


def main():
    server = Server((os.environ.get("HOST", "127.0.0.1"), int(os.environ.get("PORT", "8000"))), Handler)

    def stop(signum, frame):
        threading.Thread(target=server.shutdown).start()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    print(f"version {VERSION} listens on port {server.server_port}", flush=True)
    server.serve_forever(poll_interval=0.05)


if __name__ == "__main__":
    main()
