"""A headless Chromium, spoken to over its DevTools pipe: no driver, no extra package, no port."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


def find() -> str | None:
    """Path of a Chromium, or None."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


#: The pipe is on descriptors 3 and 4 by definition, whichever numbers we were given.
LAUNCHER = """
import fcntl, os, sys
ends = [fcntl.fcntl(int(end), fcntl.F_DUPFD, 10) for end in sys.argv[1:3]]
os.dup2(ends[0], 3)
os.dup2(ends[1], 4)
os.execv(sys.argv[3], sys.argv[3:])
"""


#: Keys by name: DevTools wants the code and the number as well.
_KEYS = {
    "Tab": 9, "Enter": 13, "Escape": 27, "PageUp": 33, "PageDown": 34, "End": 35, "Home": 36,
    "ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40,
}  # fmt: skip
CONTROL, SHIFT = 2, 8


class Page:
    """One tab. ``messages`` has what the console and the browser's log said, and dialogs; ``requests`` has the URLs
    that were asked for besides the page itself."""

    def __init__(self, reader: int, writer: int) -> None:
        self._reader = reader
        self._writer = writer
        self._buffer = b""
        self._number = 0
        self._session: str | None = None
        self._loaded = False
        self.messages: list[str] = []
        self.requests: list[str] = []
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")

    def _post(self, method: str, params: dict[str, Any]) -> int:
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        raw = json.dumps(message).encode() + b"\0"
        while raw:
            raw = raw[os.write(self._writer, raw) :]
        return self._number

    def send(self, method: str, **params: Any) -> dict[str, Any]:
        """One DevTools command; its result, or RuntimeError."""
        number = self._post(method, params)
        while True:
            answer = self._receive()
            if answer.get("id") == number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                result: dict[str, Any] = answer["result"]
                return result

    def _receive(self, timeout_s: float = 60) -> dict[str, Any]:
        deadline = time.monotonic() + timeout_s
        while b"\0" not in self._buffer:
            if not select.select([self._reader], [], [], max(0.0, deadline - time.monotonic()))[0]:
                raise TimeoutError("Chromium did not answer")
            read = os.read(self._reader, 1 << 20)
            if not read:
                raise RuntimeError("Chromium ended")
            self._buffer += read
        raw, _, self._buffer = self._buffer.partition(b"\0")
        message: dict[str, Any] = json.loads(raw)
        self._note(message)
        return message

    def _note(self, message: dict[str, Any]) -> None:
        params = message.get("params", {})
        match message.get("method"):
            case "Page.loadEventFired":
                self._loaded = True
            case "Runtime.exceptionThrown":
                self.messages.append(json.dumps(params["exceptionDetails"]))
            case "Runtime.consoleAPICalled":
                self.messages.append(f"{params['type']}: {params['args']}")
            case "Page.javascriptDialogOpening":
                self.messages.append(f"dialog: {params['message']}")
                self._post("Page.handleJavaScriptDialog", {"accept": False})
            case "Network.requestWillBeSent" if params.get("type") != "Document":
                self.requests.append(params["request"]["url"])
            case "Log.entryAdded":
                self.messages.append(f"{params['entry']['level']}: {params['entry']['text']}")

    def open(self, path: Path, width: int = 1440, height: int = 900, scheme: str = "light") -> None:
        """Load a file at a viewport's size; returns when it has loaded."""
        self.send(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 500
        )
        self.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self._loaded = False
        self.send("Page.navigate", url=path.resolve().as_uri())
        while not self._loaded:
            self._receive()

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression. DevTools is not bound by the page's CSP."""
        answer = self.send("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(json.dumps(answer["exceptionDetails"]))
        return answer["result"].get("value")

    def wait(self, expression: str, timeout_s: float = 20) -> None:
        """Returns when an expression has become true; TimeoutError."""
        deadline = time.monotonic() + timeout_s
        while not self.evaluate(f"Boolean({expression})"):
            if time.monotonic() > deadline:
                raise TimeoutError(expression)
            time.sleep(0.01)

    def frame(self) -> None:
        """Returns when what was asked for has been painted."""
        self.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done(true))))")

    def press(self, *keys: str, modifiers: int = 0) -> None:
        """Keys one after the other, as from a keyboard: ``Tab``, ``ArrowDown``, or a letter."""
        for key in keys:
            known = {"windowsVirtualKeyCode": _KEYS[key], "code": key} if key in _KEYS else {"text": key}
            text = {"text": "\r"} if key == "Enter" else {}
            self.send("Input.dispatchKeyEvent", type="keyDown", key=key, modifiers=modifiers, **known, **text)
            self.send("Input.dispatchKeyEvent", type="keyUp", key=key, modifiers=modifiers, **known)
        self.frame()

    def type(self, text: str) -> None:
        """Text into what has the focus."""
        self.send("Input.insertText", text=text)
        self.frame()

    def box(self, selector: str) -> dict[str, float]:
        """Where the first element is in the viewport: left, top, width, height, right, bottom."""
        found: dict[str, float] | None = self.evaluate(
            f"(() => {{ const one = document.querySelector({selector!r}); return one && one.getBoundingClientRect()"
            ".toJSON(); })()"
        )
        assert found is not None, f"no {selector}"
        return found

    def mouse(self, kind: str, x: float, y: float, *, modifiers: int = 0, clicks: int = 1) -> None:
        """``mouseMoved``, ``mousePressed`` or ``mouseReleased`` at a place in the viewport."""
        held = {"button": "left", "buttons": int(kind != "mouseReleased"), "clickCount": clicks}
        params = held if kind != "mouseMoved" else {}
        self.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, modifiers=modifiers, **params)

    def click(self, selector: str, x: float | None = None, y: float | None = None, *, clicks: int = 1) -> None:
        """Scrolls the element into view and clicks on it: in its middle, or so far from its left top corner."""
        self.evaluate(f"document.querySelector({selector!r}).scrollIntoView({{block: 'center', behavior: 'instant'}})")
        self.frame()
        at = self.box(selector)
        place = (at["left"] + (at["width"] / 2 if x is None else x), at["top"] + (at["height"] / 2 if y is None else y))
        self.mouse("mouseMoved", *place)
        for number in range(1, clicks + 1):
            self.mouse("mousePressed", *place, clicks=number)
            self.mouse("mouseReleased", *place, clicks=number)
        self.frame()

    def drag(self, start: tuple[float, float], end: tuple[float, float], *, modifiers: int = 0) -> None:
        """Press at one place of the viewport, move, release at the other."""
        self.mouse("mouseMoved", *start, modifiers=modifiers)
        self.mouse("mousePressed", *start, modifiers=modifiers)
        middle = ((start[0] + end[0]) / 2, (start[1] + end[1]) / 2)
        for place in (middle, end):
            self.send(
                "Input.dispatchMouseEvent", type="mouseMoved", x=place[0], y=place[1], modifiers=modifiers,
                button="left", buttons=1,
            )  # fmt: skip
        self.mouse("mouseReleased", *end, modifiers=modifiers)
        self.frame()

    def wheel(self, x: float, y: float, *, across: float = 0, down: float = 0, modifiers: int = 0) -> None:
        """Turn the wheel at a place of the viewport."""
        self.send(
            "Input.dispatchMouseEvent", type="mouseWheel", x=x, y=y, deltaX=across, deltaY=down, modifiers=modifiers
        )
        self.frame()

    def touch(self, *fingers: Sequence[tuple[float, float]]) -> None:
        """Fingers on the screen: each is put on its first place in the viewport, goes through the others and leaves."""

        def points(step: int) -> list[dict[str, float]]:
            return [
                {"x": places[min(step, len(places) - 1)][0], "y": places[min(step, len(places) - 1)][1], "id": number}
                for number, places in enumerate(fingers)
            ]

        self.send("Emulation.setTouchEmulationEnabled", enabled=True, maxTouchPoints=2)
        try:
            self.send("Input.dispatchTouchEvent", type="touchStart", touchPoints=points(0))
            for step in range(1, max(map(len, fingers))):
                self.send("Input.dispatchTouchEvent", type="touchMove", touchPoints=points(step))
                self.frame()
            self.send("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])
            self.frame()
        finally:
            self.send("Emulation.setTouchEmulationEnabled", enabled=False)

    def screenshot(self, path: Path, *, full: bool = False) -> None:
        data = self.send("Page.captureScreenshot", captureBeyondViewport=full)["data"]
        path.write_bytes(base64.b64decode(data))

    def pdf(self) -> bytes:
        return base64.b64decode(self.send("Page.printToPDF")["data"])


@contextlib.contextmanager
def chromium(executable: str) -> Iterator[Page]:
    """Start a browser with a profile of its own; end it, and only it."""
    to_browser, our_writer = os.pipe()
    our_reader, from_browser = os.pipe()
    with tempfile.TemporaryDirectory(prefix="jobdoctor-browser-", ignore_cleanup_errors=True) as profile:
        command = [
            executable, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars",
            "--disable-dev-shm-usage", "--disable-default-apps", f"--user-data-dir={profile}",
            "--remote-debugging-pipe", "about:blank",
        ]  # fmt: skip
        process = subprocess.Popen(
            [sys.executable, "-c", LAUNCHER, str(to_browser), str(from_browser), *command],
            pass_fds=(to_browser, from_browser),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_browser)
        os.close(from_browser)
        try:
            yield Page(our_reader, our_writer)
        finally:
            os.close(our_writer)
            os.close(our_reader)
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
