"""What `llmrec serve` answers: latency, throughput beside one request at a time, durable feedback, time to ready.

    python benchmarks/serving.py --run runs/quickstart
    python benchmarks/serving.py --run runs/quickstart --seconds 5      # a quick look

The server is a process of its own, with a new SQLite store. Client and server share the machine. Each list is for
another history, so no ranking is kept from before. Lists come without reasons and hold ten items.
"""

import argparse
import http.client
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

HISTORY = 20  # items of a history
CLIENTS = 32  # connections that ask at once
TARGETS = {
    "p50_ms": "at most 60",
    "p95_ms": "at most 150",
    "throughput_ratio": "at least 5",
    "feedback_per_s": "at least 2000",
    "ready_s": "at most 8",
}


@contextmanager
def served(run: Path) -> Iterator[tuple[int, float]]:
    """A server on a free port; yields the port and the seconds until it was ready."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "llmrec", "serve", "--run", str(run), "--port", "0", "--rate", "1000000"]
        started = time.perf_counter()
        process = subprocess.Popen(
            [*command, "--store", f"{folder}/feedback.db"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line.startswith("ready: "):
            sys.exit("The server did not start. Run `llmrec serve` to see why.")
        try:
            yield int(line.strip().rpartition(":")[2]), time.perf_counter() - started
        finally:
            process.terminate()
            process.wait()


class Client:
    """One connection to the server."""

    def __init__(self, port: int):
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)

    def ask(self, path: str, body: dict | None = None) -> dict:
        """The answer to a request; None as the body makes it a GET."""
        method = "GET" if body is None else "POST"
        self.connection.request(method, path, json.dumps(body), {"Content-Type": "application/json"})
        answer = self.connection.getresponse()
        content = json.loads(answer.read())
        if answer.status != 200:
            sys.exit(f"{path}: {answer.status} {content}")
        return content


def at_rate(port: int, requests: list[dict], rate: float) -> list[float]:
    """Seconds of each request, if they are sent at a rate whether or not earlier ones are answered."""
    seconds = [0.0] * len(requests)
    start = time.perf_counter() + 0.1

    def send(number: int) -> None:
        client = Client(port)
        client.connection.connect()
        due = start + number / rate
        time.sleep(max(0.0, due - time.perf_counter()))
        client.ask("/recommend", requests[number])
        seconds[number] = time.perf_counter() - due

    run_all([lambda n=n: send(n) for n in range(len(requests))])
    return seconds


def per_second(port: int, path: str, bodies: Iterator[dict], clients: int, seconds: float) -> float:
    """Answers per second to some clients that each ask again when they are answered."""
    answered = [0] * clients
    lock = threading.Lock()
    end = time.perf_counter() + seconds

    def ask(number: int) -> None:
        client = Client(port)
        while time.perf_counter() < end:
            with lock:
                body = next(bodies)
            client.ask(path, body)
            answered[number] += 1

    started = time.perf_counter()
    run_all([lambda n=n: ask(n) for n in range(clients)])
    return sum(answered) / (time.perf_counter() - started)


def run_all(actions: list[Callable[[], None]]) -> None:
    """Runs actions in threads and waits for all."""
    threads = [threading.Thread(target=action) for action in actions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def measure(port: int, seconds: float, rate: float) -> dict[str, float]:
    """All numbers of a server."""
    items = [item["item"] for item in Client(port).ask("/items?limit=1000")["items"]]
    random = np.random.default_rng(0)

    def lists() -> Iterator[dict]:
        while True:
            yield {"history": random.choice(items, HISTORY, replace=False).tolist(), "k": 10}

    def events(count: int) -> Iterator[dict]:
        number = 0
        while True:
            number += 1
            event = {"user": f"u{number % 997}", "item": items[number % len(items)], "type": "click"}
            yield {"events": [event | {"event_id": f"{count}-{number}-{k}"} for k in range(count)]}

    histories = lists()
    per_second(port, "/recommend", histories, 1, 1.0)  # warm
    latency = 1000 * np.array(at_rate(port, [next(histories) for _ in range(int(rate * seconds))], rate))
    one = per_second(port, "/recommend", histories, 1, seconds)
    many = per_second(port, "/recommend", histories, CLIENTS, seconds)
    return {
        "p50_ms": float(np.percentile(latency, 50)),
        "p95_ms": float(np.percentile(latency, 95)),
        "lists_per_s_one_at_a_time": one,
        f"lists_per_s_{CLIENTS}_clients": many,
        "throughput_ratio": many / one,
        "feedback_per_s": 100 * per_second(port, "/feedback", events(100), 4, seconds),
        "single_events_per_s": per_second(port, "/feedback", events(1), CLIENTS, seconds),
    }


def main() -> None:
    """Measures one server and prints its numbers beside the targets."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="Run directory with a trained adapter.")
    parser.add_argument("--seconds", type=float, default=30.0, help="Seconds of each measurement.")
    parser.add_argument("--rate", type=float, default=10.0, help="Lists per second for the latency.")
    parser.add_argument("--json", action="store_true", help="Print JSON on stdout.")
    arguments = parser.parse_args()
    with served(arguments.run) as (port, ready):
        numbers = measure(port, arguments.seconds, arguments.rate) | {"ready_s": ready}
    if arguments.json:
        print(json.dumps(numbers))
        return
    for name, value in numbers.items():
        print(f"{name:28}{value:12,.1f}  {TARGETS.get(name, '')}")


if __name__ == "__main__":
    main()
