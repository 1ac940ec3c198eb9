"""Times the task queues a user would pick instead of codehornets-ai, for a task that does nothing.

Latency: a producer process enqueues one task at a time on an idle worker, one in flight, 4 to 6 ms apart (random, so
that a polling worker cannot stay in step with the producer). A sample runs from ``time.monotonic_ns`` just before the
enqueue call to ``time.monotonic_ns`` as the first statement of the task function; both processes read one clock.

Throughput: all tasks are enqueued before the worker starts, and the rate is taken from the first task's entry to the
last result stored in Redis. A preloaded queue is the fairest choice on a small machine: no producer competes for the
processor, and no peer is held back by a slow enqueue call. Start-up is not counted.

Every peer stores the task's small return value in Redis, runs one worker process, and logs warnings only. The settings
of each are in its module's docstring. redis-py uses its C parser where hiredis is installed.
"""

from .measure import PEERS, PeerFigures, measure_peer

__all__ = ["PEERS", "PeerFigures", "measure_peer"]
