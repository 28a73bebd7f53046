"""A headless Chromium and a picture of the page that it shows, over its debugging protocol."""

from __future__ import annotations

import base64
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
# WebGL without a GPU.
_FLAGS = ("--headless=new", "--no-sandbox", "--use-angle=swiftshader",
          "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist", "--window-size=1280,800",
          "--remote-allow-origins=*")  # fmt: skip


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@contextmanager
def browser(address: str, profile: Path) -> Iterator[int]:
    """Open a page; yield the port by which it can be asked for pictures."""
    port = free_port()
    asked = [str(CHROMIUM), *_FLAGS, f"--user-data-dir={profile}",
             f"--remote-debugging-port={port}", address]  # fmt: skip
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(asked, start_new_session=True, **quiet)
    try:
        yield port
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(timeout=30)


def picture(port: int) -> np.ndarray:
    """Return what the page shows now [height, width, 3], blue green red."""
    deadline, pages = time.monotonic() + 60, []
    while not pages and time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/json", timeout=5) as answer:
                pages = [tab for tab in json.load(answer) if tab["type"] == "page"]
        except OSError:
            time.sleep(0.5)
    path = pages[0]["webSocketDebuggerUrl"].split(str(port), 1)[1]
    with socket.create_connection(("127.0.0.1", port), timeout=60) as s:
        answer = _call(s, path, port, {"id": 1, "method": "Page.captureScreenshot"})
    png = base64.b64decode(answer["result"]["data"])
    return cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR)


def _call(s: socket.socket, path: str, port: int, command: dict) -> dict:
    """Ask one thing over a WebSocket (RFC 6455)."""
    key = base64.b64encode(os.urandom(16)).decode()
    s.sendall(
        f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\n"
        f"Connection: Upgrade\r\nSec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n"
        .encode()
    )  # fmt: skip
    stream = s.makefile("rb")
    while stream.readline().strip():
        pass
    content = json.dumps(command).encode()
    s.sendall(bytes([0x81, 0x80 | len(content)]) + bytes(4) + content)
    length = stream.read(2)[1] & 0x7F
    if length == 126:
        length = struct.unpack(">H", stream.read(2))[0]
    elif length == 127:
        length = struct.unpack(">Q", stream.read(8))[0]
    return json.loads(stream.read(length))
