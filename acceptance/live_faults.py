"""A steady live log while the stream is killed, Kafka and Redis are stopped, a message is poison and a column comes: each event once.

What Kafka has acknowledged is counted against bronze, silver and the online state.
"""

import os
import random
import signal
import time
from collections import Counter
from pathlib import Path

from acceptance import lakes
from acceptance.claims import Claim
from lib.live.kafka_broker import KafkaBroker, kafka_broker
from tests.brokers import send
from tests.live_logs import CLICKS, SteadyLog, Stream, num_rows, state_items, topic_prefix
from tests.redis_servers import RedisServer, redis_server
from tests.shops import Shop

NUM_KILLS = 10
PER_SECOND = 300
OUTAGE_SECONDS = 30
MOST_SECONDS_TO_A_KILL = 12.0  # after bronze grows again
POISON: tuple[bytes | None, ...] = (
    b"\xff\xfe not JSON",
    b"{",
    b"[]",
    None,
    b'{"user": "u1", "item": "x", "time": "never"}',
)
NUM_USERS = 500
FLAGS = ("--stream.trigger-seconds", "0.5", "--stream.clean-seconds", "5", "--live.events-kept", "10000")


def check() -> list[Claim]:
    """The log goes on all the while; then it ends, the stream catches up, and everything is counted."""
    seed = int(os.environ.get("CARTWHEEL_SEED") or time.time())
    print(f"  CARTWHEEL_SEED={seed}", flush=True)
    folder = lakes.empty("live_faults")
    with kafka_broker(folder / "kafka") as kafka, redis_server(folder / "redis", "--appendonly", "yes") as redis:
        return watched(folder, kafka, redis, random.Random(seed), seed)


def watched(folder: Path, kafka: KafkaBroker, redis: RedisServer, draw: random.Random, seed: int) -> list[Claim]:
    """What becomes of the log in all these faults."""
    shop, prefix = Shop.with_key(folder / "shop", CLICKS), topic_prefix(kafka, clicks=4)
    topic, flags = f"{prefix}clicks", (*FLAGS, "--live.state", redis.address)
    log = SteadyLog(kafka.address, topic, per_second=PER_SECOND, num_users=NUM_USERS)
    log.start()
    stream = Stream(shop, kafka.address, prefix, *flags)
    moments = []
    for _ in range(NUM_KILLS):
        grown(shop, stream)
        moments.append(draw.uniform(0, MOST_SECONDS_TO_A_KILL))
        time.sleep(moments[-1])
        stream.end(signal.SIGKILL)
        stream = Stream(shop, kafka.address, prefix, *flags)
    outages = {"Kafka": (kafka.stop, kafka.start), "Redis": (redis.kill, redis.start)}
    recovered = {}
    for name, (stop, start) in outages.items():
        grown(shop, stream)
        stop()
        time.sleep(OUTAGE_SECONDS)
        start()
        began, made = time.monotonic(), log.num_made
        stream.until(lambda made=made: num_rows(shop.lake, "bronze/clicks") >= made, seconds=300)  # type: ignore[misc]
        recovered[name] = time.monotonic() - began
    send(kafka.address, topic, [(None, value) for value in POISON])
    log.more = {"page": "home", "Page_Size": 3}
    time.sleep(10)
    log.more = {"PAGE_SIZE": "4"}
    time.sleep(10)
    num_sent = log.end()
    stream.until(lambda: num_rows(shop.lake, "silver/events") >= num_sent, seconds=300)
    stream.until(lambda: len(state_items(shop, state=redis.address, topic_prefix=prefix)) >= num_sent, seconds=300)
    code = stream.end()
    state = state_items(shop, state=redis.address, topic_prefix=prefix)
    return [
        *counted(shop, num_sent, state, code),
        Claim(
            "the faults were as told",
            f"{NUM_KILLS} kills -9 of the driver, {', '.join(f'{moment:.1f}' for moment in moments)} s after bronze had grown; Kafka and "
            f"Redis away for {OUTAGE_SECONDS} s each; seed {seed}. Bronze held what had been sent by the end of the outage "
            + " and ".join(f"{seconds:.0f} s after {name}'s" for name, seconds in recovered.items()),
            True,
        ),
    ]


def grown(shop: Shop, stream: Stream) -> None:
    """Wait until bronze has grown."""
    before = num_rows(shop.lake, "bronze/clicks")
    stream.until(lambda: num_rows(shop.lake, "bronze/clicks") > before, seconds=180)


def counted(shop: Shop, num_sent: int, state: list[str], code: int) -> list[Claim]:
    """What the tables and the state hold of what was sent."""
    every = {f"i{number}" for number in range(num_sent)}
    bronze = Counter(row["item"] for row in shop.read("bronze/clicks", "item") if row["item"] in every)
    silver, kept = Counter(row["item_id"] for row in shop.read("silver/events", "item_id")), Counter(state)
    others = num_rows(shop.lake, "bronze/clicks") - bronze.total()
    reasons = shop.reasons()
    return [
        Claim(
            f"bronze has each of {num_sent:,} acknowledged events once",
            told(bronze, every),
            is_each_once(bronze, every),
        ),
        Claim("silver has each once", told(silver, every), is_each_once(silver, every)),
        Claim("the online state has each once", told(kept, every), is_each_once(kept, every)),
        Claim(
            f"the {len(POISON)} poisoned messages are in bronze and refused with a reason",
            f"{others} other records in bronze; {dict(reasons)}",
            others == len(POISON) and reasons == {"malformed": 4, "bad_value:event_time": 1},
        ),
        Claim("the stream ends on SIGTERM with 0", f"exit code {code}", code == 0),
    ]


def told(found: Counter[str], every: set[str]) -> str:
    """What is missing and what is there twice."""
    return f"{len(every - found.keys())} missing, {sum(number > 1 for number in found.values())} more than once, {len(found.keys() - every)} others"


def is_each_once(found: Counter[str], every: set[str]) -> bool:
    """Whether that is so."""
    return found.keys() == every and set(found.values()) == {1}
