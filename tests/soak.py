"""A crowd of random clients for the local server: `python tests/soak.py 1000`.

They leave in the middle of an answer or while they wait, send too much, too slowly or nonsense,
come in parallel, read slowly and pretend to be web pages. After every fifty, when all of them have
gone, one small request is timed, and the server's memory is read.
"""

import collections
import contextlib
import json
import random
import socket
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import psutil

from aigc_utils.chat import server

BATCH = 50
AT_ONCE = 8
CHAT, RESPONSES = "/v1/chat/completions", "/v1/responses"


@dataclass
class Report:
    """What happened: answers by status, small requests in seconds, memory in MB."""

    statuses: collections.Counter = field(default_factory=collections.Counter)
    small: list[float] = field(default_factory=list)
    memory: list[float] = field(default_factory=list)


def chat(words: str = "Write a long story.", **options: object) -> bytes:
    message = {"role": "user", "content": words}
    return json.dumps({"max_tokens": 3, **options, "messages": [message]}).encode()


class Client:
    """One client: a connection to a port, and its own chance."""

    def __init__(self, port: int, seed: int) -> None:
        self.port, self.chance = port, random.Random(seed)
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=120)

    def send(self, body: bytes, path: str = CHAT, **headers: str) -> None:
        lines = {
            "Host": f"127.0.0.1:{self.port}",
            "Content-Type": "application/json",
            "Content-Length": str(len(body)),
            **headers,
        }
        head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        self.socket.sendall(f"POST {path} HTTP/1.1\r\n{head}\r\n".encode())
        with contextlib.suppress(ConnectionError):  # the answer may be there already
            self.socket.sendall(body)

    def pause(self, most: float = 0.5) -> None:
        time.sleep(self.chance.random() * most)

    def status(self) -> str:
        """Return the status of the answer, read to its end."""
        received = b""
        while not _whole(received):
            more = self.socket.recv(65536)
            if not more:
                break
            received += more
        return received[9:12].decode() or "closed"

    # --- what clients do -------------------------------------------------------------------------

    def asks(self) -> str:
        self.send(chat("Hello."))
        return self.status()

    def asks_in_parallel(self) -> str:
        others = [Client(self.port, 0) for _ in range(3)]
        for client in (self, *others):
            client.send(chat("Hello.", stream=self.chance.random() < 0.5))
        found = {client.status() for client in (self, *others)}
        for client in others:
            client.socket.close()
        return "+".join(sorted(found))

    def leaves_a_stream(self) -> str:
        self.send(chat(stream=True, max_tokens=self.chance.choice([20, 2000])))
        self.socket.recv(500)
        self.pause()
        return "left"

    def leaves_without_streaming(self) -> str:
        self.send(chat(max_tokens=self.chance.choice([50, 5000])))
        self.pause()
        return "left"

    def leaves_responses(self) -> str:
        self.send(json.dumps({"input": "Tell me a story."}).encode(), RESPONSES)
        self.pause()
        return "left"

    def leaves_a_large_prompt(self) -> str:
        self.send(chat("hello world " * self.chance.choice([1000, 3900])))
        self.pause(1)
        return "left"

    def sends_too_many_tokens(self) -> str:
        self.send(chat(self.chance.choice(["1", "hello ", "a b "]) * 15_000))
        return self.status()

    def sends_a_huge_body(self) -> str:
        self.send(b" " * self.chance.choice([200_000, 5_000_000]))
        return self.status()

    def sends_half_a_body(self) -> str:
        self.send(chat()[:-20], **{"Content-Length": str(len(chat()))})
        self.pause()
        return "left"

    def says_nothing(self) -> str:
        self.pause()
        return "left"

    def sends_nonsense(self) -> str:
        kinds = [
            b"",
            b"{",
            b"[]",
            b"[" * 50_000,
            b"\xff\xfe",
            b'{"messages": "\\ud800"}',
            b"9" * 9999,
        ]
        self.send(self.chance.choice(kinds))
        return self.status()

    def sends_odd_fields(self) -> str:
        odd = {
            "temperature": -1,
            "stop": [],
            "logit_bias": {"999999": 1},
            "seed": 2**80,
            "max_tokens": 0,
            "chat_template_kwargs": {"chat_template": "{% for i in range(10**9) %}{% endfor %}"},
            "generation_config": '{"num_beams": 999}',
            "model": "../other",
        }
        name = self.chance.choice(sorted(odd))
        self.send(chat(**{name: odd[name]}))
        return self.status()

    def is_no_http(self) -> str:
        self.socket.sendall(self.chance.randbytes(300) + b"\r\n\r\n")
        return self.status()

    def comes_from_elsewhere(self) -> str:
        name, value = self.chance.choice(
            [("Host", "evil.example"), ("Origin", "http://evil.example")]
        )
        self.send(chat(), **{name: value})
        return self.status()

    def asks_for_other_routes(self) -> str:
        self.send(chat(), self.chance.choice(["/load_model", "/reset", "/v1/systemone", "/docs"]))
        return self.status()

    def reads_slowly(self) -> str:
        self.send(chat(stream=True, max_tokens=6))
        received = b""
        while not _whole(received) and (more := self.socket.recv(200)):
            received += more
            time.sleep(0.02)
        return received[9:12].decode()


ACTIONS: list[Callable[[Client], str]] = [
    action for name, action in vars(Client).items() if name.split("_")[0] in {
        "asks", "leaves", "sends", "says", "is", "comes", "reads"
    }
]  # fmt: skip


def _whole(received: bytes) -> bool:
    head, there, body = received.partition(b"\r\n\r\n")
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return bool(there) and len(body) >= int(line.split(b":")[1])
    return bool(there) and body.endswith(b"0\r\n\r\n")


def visit(port: int, seed: int) -> tuple[str, str]:
    """Be one random client; return what it did and what it saw."""
    client = Client(port, seed)
    action = client.chance.choice(ACTIONS)
    try:
        return action.__name__, action(client)
    except (ConnectionError, TimeoutError) as error:
        return action.__name__, type(error).__name__
    finally:
        client.socket.close()


def quiet(running: server.Server) -> float:
    """Return the seconds that one small request takes when nobody else is there."""
    start = time.perf_counter()
    client = Client(running._port, 0)
    assert client.asks() == "200"
    client.socket.close()
    return time.perf_counter() - start


def soak(running: server.Server, clients: int) -> Report:
    """Send `clients` random clients, `AT_ONCE` at a time."""
    report = Report()
    process = psutil.Process(running.process.pid)
    with ThreadPoolExecutor(AT_ONCE) as crowd:
        for first in range(0, clients, BATCH):
            seeds = range(first, min(first + BATCH, clients))
            report.statuses.update(crowd.map(lambda seed: visit(running._port, seed), seeds))
            report.small.append(quiet(running))
            report.memory.append(process.memory_info().rss / 1e6)
    return report


if __name__ == "__main__":
    begun = time.perf_counter()
    with server.start() as running:
        found = soak(running, int(sys.argv[1]))
        for (did, saw), times in sorted(found.statuses.items()):
            print(f"{did:26} {saw:22} {times:5}")
        print("log:", running.last_words(5))
    print(f"small requests, seconds: {' '.join(f'{s:.1f}' for s in found.small)}")
    print(f"resident memory, MB: {' '.join(f'{m:.0f}' for m in found.memory)}")
    print(f"{time.perf_counter() - begun:.0f} s in all")
