"""One kind of bad client, until it is ended: python3 benches/abuse.py KIND HOST:PORT KEY

Says `ready` when it is at work. Loopback only. What each kind pauses is so that it asks for no more than what
one machine's share is: a bad client that sends nothing but floods also takes the processor that it runs on.
"""

import gzip
import os
import resource
import socket
import sys
import time

kind, address, key = sys.argv[1:]
host, port = address.rsplit(":", 1)
PAUSE = 0.01
HEAD = f"POST /experiment/demo/log HTTP/1.1\r\nhost: t\r\nx-api-key: {key}\r\n".encode()
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
GET_HEALTH = b"\x82\x86\x04\x07/health\x01\x01t"


def connect():
    stream = socket.create_connection((host, int(port)))
    stream.settimeout(10)
    return stream


def send(stream, data):
    """Whether the server still takes it."""
    try:
        stream.sendall(data)
        return True
    except OSError:
        return False


def frame(kind, flags, stream, payload):
    return len(payload).to_bytes(3) + bytes([kind, flags]) + stream.to_bytes(4) + payload


def ready():
    print("ready", flush=True)


def hold(count, first, more):
    """Many connections that say `first`, and then `more` of it, a byte now and then."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    streams = [connect() for _ in range(count)]
    for stream in streams:
        send(stream, first)
    ready()
    while True:
        for at, stream in enumerate(streams):
            if more and not send(stream, more):
                streams[at] = connect()
                send(streams[at], first)
            time.sleep(PAUSE / 10)


def again(data):
    """A connection for each, as fast as the pause allows."""
    ready()
    while True:
        stream = connect()
        if send(stream, data()):
            try:
                stream.recv(65536)
            except OSError:
                pass
        stream.close()
        time.sleep(PAUSE)


def gzip_bomb():
    body = gzip.compress(b" " * (64 << 20))
    head = HEAD + f"content-encoding: gzip\r\ncontent-length: {len(body)}\r\n\r\n".encode()
    return head + body


def pipelining():
    stream = connect()
    ready()
    burst = b"GET /health HTTP/1.1\r\nhost: t\r\n\r\n" * 16
    while True:
        if not send(stream, burst):
            stream = connect()
        stream.recv(1 << 20)
        time.sleep(PAUSE)


def http2(first, flood):
    """Frames of HTTP/2, on a new connection when the server has had enough."""
    ready()
    while True:
        stream = connect()
        alive = send(stream, PREFACE + frame(4, 0, 0, b"") + first)
        n = 0
        while alive:
            alive = send(stream, flood(n))
            n += 1
            time.sleep(PAUSE / 10)
        stream.close()
        time.sleep(PAUSE)


def reset(n):
    stream = 2 * n + 1
    return frame(1, 5, stream, GET_HEALTH) + frame(3, 0, stream, (8).to_bytes(4))


bomb = gzip_bomb() if kind == "gzip_bombs" else b""
{
    "idle": lambda: hold(5000, b"", b""),
    "slow_heads": lambda: hold(500, HEAD, b"x"),
    "slow_bodies": lambda: hold(500, HEAD + b"content-length: 1000\r\n\r\n", b"{"),
    "huge_heads": lambda: again(lambda: HEAD + b"x: " + b"y" * 200_000),
    "gzip_bombs": lambda: again(lambda: bomb),
    "pipelining": pipelining,
    "random_bytes": lambda: again(lambda: os.urandom(4096)),
    "rapid_reset": lambda: http2(b"", reset),
    "continuations": lambda: http2(
        frame(1, 1, 1, GET_HEALTH), lambda n: frame(9, 0, 1, b"\x00\x01x\x7f\x81\x7d" + b"y" * 16_000)
    ),
}[kind]()
