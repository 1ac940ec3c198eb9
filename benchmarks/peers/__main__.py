"""Command line: ``python -m benchmarks.peers``; one JSON object on stdout, progress on stderr."""

import argparse
import json
import signal

from .measure import PEERS, PeerFigures, measure_peer, say
from .processes import PeerError
from .redis_server import open_redis


def main() -> None:
    """Measure the peers asked for, one after the other, on one Redis server."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description="Time the peers of codehornets-ai.")
    parser.add_argument("--peer", nargs="+", action="extend", choices=PEERS, help="peers to measure (default: all)")
    parser.add_argument("--samples", type=int, default=500, help="latency samples after the warm-up")
    parser.add_argument("--tasks", type=int, default=5000, help="tasks in the throughput run")
    parser.add_argument("--concurrency", type=int, default=10, help="tasks a worker may run at once")
    options = parser.parse_args()
    if options.samples < 2 or options.tasks < 1 or options.concurrency < 1:
        parser.error("--samples must be at least 2, --tasks and --concurrency at least 1")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a terminated bench cleans up like an interrupted one
    names = options.peer or PEERS
    try:
        with open_redis() as url:
            figures = [measure_peer(name, url, options.samples, options.tasks, options.concurrency) for name in names]
    except PeerError as error:
        say(str(error))
        figures = [PeerFigures(name=name) for name in names]
    except KeyboardInterrupt:
        raise SystemExit("Interrupted; all processes are stopped.") from None
    print(json.dumps({each.name: each.as_json() for each in figures}, indent=2))


if __name__ == "__main__":
    main()
