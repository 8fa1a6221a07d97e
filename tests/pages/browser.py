"""Measure the built pages in a headless Chromium, where there is one: what no scroll bar reaches."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

NAMES = "chromium", "chromium-browser", "google-chrome", "chrome"
WIDTHS = 1280, 390

# For every page and width: how far the page is too wide, and which boxes are cut with no scroll bar.
MEASURE = """
<!doctype html><body><script>
const pages = PAGES, widths = WIDTHS, found = {};
const scrolls = (box) => ["auto", "scroll"].includes(getComputedStyle(box).overflowX);
function cut(box, view) {
  for (let at = box.parentElement; at; at = at.parentElement)
    if (scrolls(at)) return at.getBoundingClientRect().right > view.innerWidth + 1;
  return box.getBoundingClientRect().right > view.innerWidth + 1;
}
async function measure(page, width) {
  const frame = document.createElement("iframe");
  frame.style = `width: ${width}px; height: 900px; border: 0`;
  frame.src = page;
  document.body.append(frame);
  await new Promise((done) => frame.addEventListener("load", done));
  const view = frame.contentWindow, root = frame.contentDocument.documentElement;
  frame.contentDocument.querySelectorAll("details").forEach((fold) => (fold.open = true));
  const kinds = ["table", "pre", "img", "figure"].map((kind) => `article ${kind}`);
  const boxes = [...frame.contentDocument.querySelectorAll(kinds)].filter((box) => box.offsetParent);
  found[`${page} at ${width}`] = {
    over: root.scrollWidth - root.clientWidth,
    cut: boxes.filter((box) => cut(box, view)).map((box) => box.outerHTML.slice(0, 80)),
  };
  frame.remove();
}
(async () => {
  for (const page of pages) for (const width of widths) await measure(page, width);
  await fetch("/found", { method: "POST", body: JSON.stringify(found) });
})();
</script></body>
"""


def find() -> str | None:
    """The path of a browser."""
    return next(filter(None, map(shutil.which, NAMES)), None)


def measure(browser: str, site: Path, pages: list[str], seconds: float = 300) -> dict[str, Any]:
    """What was found for each page and width."""
    text = MEASURE.replace("PAGES", json.dumps(pages)).replace("WIDTHS", json.dumps(WIDTHS)).encode()
    told: list[dict[str, Any]] = []
    arrived = threading.Event()

    class Handler(SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path != "/measure":
                return super().do_GET()
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(text)
            return None

        def do_POST(self) -> None:
            told.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()
            arrived.set()

        def log_message(self, *message: object) -> None:
            pass

    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile,
        ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(site))) as server,
    ):
        threading.Thread(target=server.serve_forever, daemon=True).start()
        command = [browser, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}"]
        process = subprocess.Popen(
            [*command, f"http://127.0.0.1:{server.server_address[1]}/measure"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            if not arrived.wait(seconds):
                raise TimeoutError(f"{browser} told nothing within {seconds} s")
        finally:
            process.terminate()
            process.wait(10)
            server.shutdown()
    return told[0]
