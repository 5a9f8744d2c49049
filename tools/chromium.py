"""Headless Chromium for a test or a picture: its DevTools protocol over a pipe, no driver and no port.

`--remote-debugging-pipe` reads commands from file descriptor 3 and writes answers to 4, each a JSON text that ends in
a zero byte (https://chromedevtools.github.io/devtools-protocol/).
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from queue import Empty, Queue
from types import TracebackType
from typing import Any, Self

# Puts the pipes where Chromium wants them, then becomes Chromium.
_LAUNCH = """
import fcntl, os, sys
taken, given = [fcntl.fcntl(int(number), fcntl.F_DUPFD, 10) for number in sys.argv[1:3]]
os.dup2(taken, 3)
os.dup2(given, 4)
os.execv(sys.argv[3], sys.argv[3:])
"""
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def find() -> str | None:
    """The browser's program, or None where there is none."""
    return next((path for path in map(shutil.which, NAMES) if path), None)


class Chromium:
    """A browser with one page. A context manager.

    Attributes:
        messages: console messages, exceptions and log entries of the page since it was opened.
        requests: URLs that the page asked for, its own included.
    """

    def __init__(self, program: str) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True)
        self._profile = Path(self._folder.name)
        theirs_in, self._out = os.pipe()
        self._in, theirs_out = os.pipe()
        # As root (a container) its sandbox does not start.
        command = [
            sys.executable, "-I", "-c", _LAUNCH, str(theirs_in), str(theirs_out), program, "--headless=new",
            "--remote-debugging-pipe", f"--user-data-dir={self._profile}", "--no-first-run", "--disable-gpu",
            "--disable-dev-shm-usage", "--hide-scrollbars", "--force-color-profile=srgb", "--disable-extensions",
            "--disable-background-networking", "--disable-component-update",
            *(["--no-sandbox"] if os.geteuid() == 0 else []), "about:blank",
        ]  # fmt: skip
        self._process = subprocess.Popen(
            command, pass_fds=(theirs_in, theirs_out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        os.close(theirs_in)
        os.close(theirs_out)
        self._answers: Queue[dict[str, Any]] = Queue()
        self._number = 0
        self.messages: list[str] = []
        self.requests: list[str] = []
        self._loaded = False
        self._scripts = True
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self._session = ""
        try:
            target = self.call("Target.createTarget", url="about:blank")["targetId"]
            self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
            for domain in ("Page", "Runtime", "Log", "Network"):
                self.call(f"{domain}.enable")
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the browser."""
        os.close(self._out)  # it ends by itself when nobody can ask any more
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join(5)
        os.close(self._in)
        self._folder.cleanup()

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One command of the protocol, and its result.

        Raises:
            RuntimeError: the browser refused it, or did not answer within a minute.
        """
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            try:
                answer = self._answers.get(timeout=60)
            except Empty:
                raise RuntimeError(f"no answer to {method}") from None
            if answer.get("id") == self._number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']['message']}")
                result: dict[str, Any] = answer["result"]
                return result

    def open(self, url: str, *, width: int = 1280, height: int = 900, dark: bool = False) -> None:
        """Load a page at a width in CSS pixels, and wait until it is drawn."""
        self.resize(width, height)
        self.colours(dark)
        self.messages.clear()
        self.requests.clear()
        self._loaded = False
        self.call("Page.navigate", url=url)
        deadline = time.monotonic() + 30
        while not self._loaded:
            if time.monotonic() > deadline:
                raise RuntimeError(f"{url} did not load within 30 s")
            time.sleep(0.02)
        self.settle()

    def scripts(self, on: bool) -> None:
        """Whether pages run their scripts; `evaluate` always works."""
        self._scripts = on
        self.call("Emulation.setScriptExecutionDisabled", value=not on)

    def settle(self) -> None:
        """Wait until what was changed is drawn."""
        if self._scripts:  # without scripts nobody is called back
            self.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")

    def resize(self, width: int, height: int = 900) -> None:
        """Another width; up to 500 pixels the page is told that it is on a phone."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width <= 500,
        )

    def colours(self, dark: bool, media: str = "") -> None:
        """Light or dark; and the medium, e.g. "print"."""
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", media=media, features=[scheme])

    def evaluate(self, script: str) -> Any:
        """The value of a JavaScript expression (a promise is awaited).

        Raises:
            RuntimeError: it threw.
        """
        found = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in found:
            raise RuntimeError(f"{script}: {found['exceptionDetails']}")
        return found["result"].get("value")

    def picture(self, path: Path, *, whole: bool = True) -> None:
        """A PNG of the page, or of what is in view."""
        clip = {}
        if whole:
            size = self.call("Page.getLayoutMetrics")["cssContentSize"]
            clip = {"clip": {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}}
        found = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole, **clip)
        path.write_bytes(base64.b64decode(found["data"]))

    def paper(self, path: Path) -> None:
        """A PDF of the page on A4."""
        found = self.call(
            "Page.printToPDF",
            printBackground=False,
            paperWidth=8.27,
            paperHeight=11.69,
            preferCSSPageSize=True,
        )
        path.write_bytes(base64.b64decode(found["data"]))

    def _read(self) -> None:
        left = b""
        while True:
            try:
                data = os.read(self._in, 1 << 16)
            except OSError:
                return
            if not data:
                return
            *texts, left = (left + data).split(b"\0")
            for text in texts:
                self._take(json.loads(text))

    def _take(self, message: dict[str, Any]) -> None:
        if "id" in message:
            self._answers.put(message)
            return
        method, values = message["method"], message.get("params", {})
        if method == "Page.loadEventFired":
            self._loaded = True
        elif method == "Network.requestWillBeSent":
            self.requests.append(values["request"]["url"])
        elif method == "Runtime.consoleAPICalled":
            self.messages.append(" ".join(str(a.get("value", "")) for a in values["args"]))
        elif method == "Runtime.exceptionThrown":
            self.messages.append(str(values["exceptionDetails"].get("text", "")))
        elif method == "Log.entryAdded":
            self.messages.append(values["entry"]["text"])
