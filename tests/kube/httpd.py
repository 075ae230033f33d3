"""The program that test pods run: a small HTTP server whose health, start and end a test can steer.

    python httpd.py ADDRESS PORT [FOLDER]

It answers GET /env with its environment, /pid with its process id, /files?PATH with a file, and any other path
with 200; except, when a FOLDER is given, paths that have a file of their name there: those get its content as
status code, so that a test makes a probe fail by writing `FOLDER/livez`. With `FOLDER/ignore-sigterm` it does not
stop when asked to. Each start appends a line to `FOLDER/starts`. GET /spawn starts a child that would outlive it.
"""

import http.server
import json
import os
import pathlib
import signal
import subprocess
import sys

FOLDER = pathlib.Path(sys.argv[3] if len(sys.argv) > 3 else "/nowhere")


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        path, _, query = self.path.lstrip("/").partition("?")
        status, body = 200, ""
        if path == "env":
            body = json.dumps(dict(os.environ))
        elif path == "pid":
            body = str(os.getpid())
        elif path == "files":
            body = pathlib.Path(query).read_text()
        elif path == "spawn":
            child = subprocess.Popen([sys.executable, "-I", "-S", "-c", "import time; time.sleep(300)"])
            body = str(child.pid)
        elif (FOLDER / path).is_file():
            status = int((FOLDER / path).read_text())
        self.send_response(status)
        self.end_headers()
        self.wfile.write(body.encode())


def main() -> None:
    if (FOLDER / "ignore-sigterm").exists():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    else:
        signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    server = http.server.ThreadingHTTPServer((sys.argv[1], int(sys.argv[2])), Handler)
    if FOLDER.is_dir():
        with (FOLDER / "starts").open("a") as starts:
            starts.write(f"{os.getpid()}\n")
    server.serve_forever()


main()
