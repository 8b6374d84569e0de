"""What the tests' hubs on localhost share: a server that answers as the model hub does."""

from http.server import BaseHTTPRequestHandler


class FakeHub(BaseHTTPRequestHandler):
    """Replies without a log; a HEAD request is answered like a GET without its body."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_) -> None:
        pass

    def reply(self, code: int, body: bytes = b"{}", **headers: str) -> None:
        self.send_response(code)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def do_HEAD(self) -> None:
        self.do_GET()
