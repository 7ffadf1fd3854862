"""A package index on loopback: tiny wheels, made here, and a list of what was asked for."""

import base64
import hashlib
import io
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Final


def wheel(
    name: str, version: str, *, requires: tuple[str, ...] = (), main: str = "", programs: tuple[str, ...] = ()
) -> tuple[str, bytes]:
    """Return the file name and the bytes of a wheel with one package, of the distribution's name.

    `main`: its `__main__` module; each of the `programs` runs `main()` of that.
    """
    info = f"{name}-{version}.dist-info"
    needs = "".join(f"Requires-Dist: {need}\n" for need in requires)
    files = {
        f"{name}/__init__.py": f'__version__ = "{version}"\n',
        f"{name}/__main__.py": main,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        f"Provides-Extra: more\n{needs}",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    if programs:
        scripts = "".join(f"{program} = {name}.__main__:main\n" for program in programs)
        files[f"{info}/entry_points.txt"] = f"[console_scripts]\n{scripts}"
    record = "".join(
        f"{path},sha256={base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b'=').decode()},"
        f"{len(text.encode())}\n"
        for path, text in files.items()
    )
    files[f"{info}/RECORD"] = f"{record}{info}/RECORD,,\n"
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for path, text in files.items():
            # A fixed date, so that the same wheel has the same hash whenever it is made.
            archive.writestr(zipfile.ZipInfo(path, (2026, 1, 1, 0, 0, 0)), text)
    return f"{name}-{version}-py3-none-any.whl", packed.getvalue()


class Index:
    """Serves wheels as an index does; `asked` are the projects, `fetched` the files that a pip wanted."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.fetched: list[str] = []
        index = self

        class Answer(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                content = index._answer(self.path)
                self.send_response(404 if content is None else 200)
                self.send_header("Content-Type", "text/html")
                self.send_header("Content-Length", str(len(content or b"")))
                self.end_headers()
                self.wfile.write(content or b"")

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self._server: Final = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/simple/"

    def add(self, file: tuple[str, bytes]) -> str:
        """Offer a wheel; return its line for a lock."""
        name, content = file
        self.files[name] = content
        project, version = name.split("-")[:2]
        return f"{project}=={version} \\\n    --hash=sha256:{hashlib.sha256(content).hexdigest()}\n"

    def forget(self) -> None:
        """Begin the lists of what was wanted anew."""
        self.asked, self.fetched = [], []

    def close(self) -> None:
        """Serve no more."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _answer(self, path: str) -> bytes | None:
        _, kind, name = path.split("/")[:3]
        if kind == "files":
            self.fetched.append(name)
            return self.files.get(name)
        self.asked.append(name)
        links = [
            f'<a href="/files/{file}#sha256={hashlib.sha256(content).hexdigest()}">{file}</a>'
            for file, content in self.files.items()
            if file.split("-")[0] == name
        ]
        return (
            "<!DOCTYPE html><html><body>{}</body></html>".format("\n".join(links)).encode() if links else None
        )
