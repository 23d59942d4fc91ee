"""A headless Chromium for tests of pages, driven through a pipe: no server, no port."""

import base64
import contextlib
import json
import os
import shutil
import subprocess
import tempfile
import threading

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"),
    *("--no-first-run", "--disable-extensions", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--remote-debugging-pipe"),
)
_MOST_SECONDS = 300  # after which a browser is ended, and with it who waits for it


def find():
    """Returns the path of a Chromium; `ELM_CHROMIUM` may name one."""
    named = os.environ.get("ELM_CHROMIUM")
    return named or next(filter(None, map(shutil.which, NAMES)), None)


needed = pytest.mark.skipif(find() is None, reason="no Chromium on this machine")


class Tab:
    """A tab of a browser.

    Attributes:
      requests: Addresses of all that the pages have asked for.
      problems: Errors of scripts, and what the page's policy has refused.
    """

    def __init__(self, to_browser, from_browser):
        self._to, self._from = to_browser, from_browser
        self._number, self._session, self._events = 0, None, []
        self.requests, self.problems = [], []
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        attached = self.send("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Network", "Runtime", "Log"):
            self.send(f"{domain}.enable")

    def send(self, method, **params):
        """Sends a command, returns its answer; notes what happens meanwhile."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        self._to.write(json.dumps(message).encode() + b"\0")
        self._to.flush()
        while True:
            got = self._receive()
            if got.get("id") == self._number:
                assert "error" not in got, (method, got["error"])
                return got["result"]

    def _receive(self):
        content = bytearray()
        while (byte := self._from.read(1)) != b"\0":
            assert byte, "the browser has ended"
            content += byte
        got = json.loads(content)
        params = got.get("params", {})
        if got.get("method") == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
        if got.get("method") == "Log.entryAdded" and params["entry"]["level"] != "info":
            self.problems.append(params["entry"]["text"])
        if got.get("method") == "Runtime.exceptionThrown":
            self.problems.append(json.dumps(params["exceptionDetails"])[:500])
        if "method" in got:
            self._events.append(got)
        return got

    def wait_for(self, event, **params):
        """Waits until the browser has told of an event, with such parameters."""

        def is_it(event_told):
            return (
                event_told["method"] == event
                and params.items() <= event_told["params"].items()
            )

        while not any(map(is_it, self._events)):
            self._receive()

    def open(self, path, *, width=1400, height=900, dark=False):
        """Opens a file at a width and waits until it is loaded."""
        self.send(
            "Emulation.setDeviceMetricsOverride",
            **{"width": width, "height": height, "deviceScaleFactor": 1},
            mobile=False,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.send("Emulation.setEmulatedMedia", features=[scheme])
        self._events = []
        self.send("Page.navigate", url=f"file://{path}")
        self.wait_for("Page.loadEventFired")

    def run(self, expression):
        """Returns the value of an expression of JavaScript in the page."""
        answer = self.send(
            "Runtime.evaluate",
            **{"expression": expression, "returnByValue": True, "awaitPromise": True},
        )
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def press(self, key, *, text=""):
        """Presses a key where the focus is, as a reader does."""
        codes = {"Enter": 13, "Tab": 9, " ": 32, "ArrowDown": 40}
        text = text or {"Enter": "\r", " ": " "}.get(key, "")
        named = {"key": key, "windowsVirtualKeyCode": codes.get(key, 0)}
        self.send("Input.dispatchKeyEvent", type="keyDown", text=text, **named)
        self.send("Input.dispatchKeyEvent", type="keyUp", **named)

    def write(self, text):
        """Writes a text where the focus is."""
        self.send("Input.insertText", text=text)

    def screenshot(self, path, *, whole=False):
        """Writes what is seen, or the whole page, as a PNG file."""
        image = self.send("Page.captureScreenshot", captureBeyondViewport=whole)
        with open(path, "wb") as file:
            file.write(base64.b64decode(image["data"]))


@contextlib.contextmanager
def opened():
    """Has a tab of a browser of its own, which ends with it."""
    browser_reads, we_write = os.pipe()
    we_read, browser_writes = os.pipe()
    # Its children may write for a moment after its end.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = [find(), *FLAGS, f"--user-data-dir={profile}", "about:blank"]
        process = subprocess.Popen(
            # It reads commands from 3 and writes answers to 4.
            ["bash", "-c", f'exec "$@" 3<&{browser_reads} 4>&{browser_writes}', "_"]
            + command,
            pass_fds=(browser_reads, browser_writes),
            stderr=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
        os.close(browser_reads)
        os.close(browser_writes)
        patience = threading.Timer(_MOST_SECONDS, process.kill)
        patience.start()
        try:
            with (
                open(we_write, "wb") as to_browser,
                open(we_read, "rb") as from_browser,
            ):
                yield Tab(to_browser, from_browser)
        finally:
            patience.cancel()
            process.terminate()
            process.wait()
