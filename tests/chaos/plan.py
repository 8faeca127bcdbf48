"""What a seed stands for: a topology, a workload and faults. Pure: the same seed, the same plan."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

LEASE_S = 2.0
CLOCK_SHIFT_S = 600
CUT_BYTES_MAX = 64 * 1024
FAULTS_FROM_S, FAULTS_TO_S = 0.3, 4.0
SMALL_DISK_BYTES = 8 * 1024 * 1024


class Kind(StrEnum):
    """What a fault does to its target: a process, ``redis``, or a link (``client:api-1``)."""

    KILL = "kill"
    TERM = "term"
    FREEZE = "freeze"
    CRASH = "crash"
    RESET = "reset"
    HALF_OPEN = "half-open"
    HOLD = "hold"
    DELAY = "delay"
    THROTTLE = "throttle"
    FILL = "fill"
    FAILOVER = "failover"


IF_BUSY = ("", "", "replace", "queue", "attach", "reject")
LINK_KINDS = (Kind.RESET, Kind.HALF_OPEN, Kind.HOLD, Kind.DELAY, Kind.THROTTLE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One fault, ``at_s`` after the workload began.

    ``for_s`` is how long it lasts (a crash: how long Redis is away; a failover: how long the master
    hangs, 0 for its death); ``cut_bytes`` is how much of the newest append-only file's end is lost
    with a crash.
    """

    kind: Kind
    target: str
    at_s: float
    for_s: float = 0.0
    cut_bytes: int = 0

    def __str__(self) -> str:
        lasting = f" for {self.for_s:g} s" if self.for_s else ""
        cut = f", {self.cut_bytes} bytes lost" if self.cut_bytes else ""
        return f"{self.kind} {self.target} at {self.at_s:g} s{lasting}{cut}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Topology:
    """What runs. ``shifted`` is the child whose clock is ``shift_s`` off, "" for none.

    ``is_replicated``: Redis is a master with a replica and sentinels, and has no links.
    """

    nodes: int
    workers: int
    slots: int
    fsync: str
    has_small_disk: bool = False
    shifted: str = ""
    shift_s: int = 0
    is_replicated: bool = False

    @property
    def node_names(self) -> list[str]:
        """The nodes, as the launcher names them."""
        return [f"api-{number + 1}" for number in range(self.nodes)]

    @property
    def worker_names(self) -> list[str]:
        """The workers, as the launcher names them."""
        return [f"worker-{number + 1}" for number in range(self.workers)]

    def __str__(self) -> str:
        more = ", small disk" if self.has_small_disk else ""
        more += ", sentinels" if self.is_replicated else ""
        more += f", {self.shifted} {self.shift_s:+d} s" if self.shifted else ""
        return (
            f"{self.nodes} nodes, {self.workers} workers of {self.slots} slots, "
            f"appendfsync {self.fsync}{more}"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """One POST; without ``name`` and ``key`` it is a plain one.

    ``key`` is its Idempotency-Key, ``if_busy`` what it wants where a session is live.
    ``leaves_after_bytes``: its client goes away then.
    """

    name: str
    words: str
    at_s: float
    node: int
    key: str = ""
    if_busy: str = ""
    stop: str = ""
    max_tokens: int = -1
    leaves_after_bytes: int = 0

    def __str__(self) -> str:
        more = f" key={self.key}" * bool(self.key) + f" if_busy={self.if_busy}" * bool(self.if_busy)
        more += f" stop={self.stop}" * bool(self.stop)
        more += f" max_tokens={self.max_tokens}" * (self.max_tokens >= 0)
        more += f", leaves after {self.leaves_after_bytes} bytes" * bool(self.leaves_after_bytes)
        where = f"api-{self.node + 1} at {self.at_s:g} s"
        return f"POST {self.name or 'without a name'} to {where}: {self.words}{more}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Stop:
    """One DELETE."""

    name: str
    at_s: float
    node: int
    keep: bool

    def __str__(self) -> str:
        keep = ", kept" if self.keep else ""
        return f"DELETE {self.name} to api-{self.node + 1} at {self.at_s:g} s{keep}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Follow:
    """A reader of a conversation. It hangs up after ``hop_bytes`` and goes on at the next node.

    ``pace_bytes_s`` is how fast it reads, 0 for as fast as it can.
    """

    name: str
    at_s: float
    node: int
    sends_epoch: bool
    hop_bytes: int = 0
    pace_bytes_s: int = 0

    def __str__(self) -> str:
        more = f", hops after {self.hop_bytes} bytes" * bool(self.hop_bytes)
        more += f", {self.pace_bytes_s} bytes a second" * bool(self.pace_bytes_s)
        more += "" if self.sends_epoch else ", names no epoch"
        return f"GET {self.name} from api-{self.node + 1} at {self.at_s:g} s{more}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """All that a seed stands for.

    ``until_compacted``: the run ends when the watch index is empty, which is when every log has
    been compacted; else when every session has ended.
    """

    seed: int
    engine: str
    topology: Topology
    asks: Sequence[Ask]
    stops: Sequence[Stop]
    follows: Sequence[Follow]
    faults: Sequence[Fault]
    until_compacted: bool

    @property
    def loses_data(self) -> bool:
        """Whether a fault takes back what Redis has acknowledged."""
        return any(fault.cut_bytes or fault.kind is Kind.FAILOVER for fault in self.faults)

    @property
    def worker_faults(self) -> int:
        """How often a worker may lose its sessions."""
        lasting = (Kind.FREEZE, Kind.HALF_OPEN, Kind.HOLD, Kind.DELAY, Kind.THROTTLE)
        return sum(
            "worker-" in fault.target and fault.kind in (Kind.KILL, *lasting)
            for fault in self.faults
        )

    def lines(self) -> Iterator[str]:
        """The plan, to be read."""
        more = ", until compacted" if self.until_compacted else ""
        yield f"seed {self.seed}, {self.engine}: {self.topology}{more}"
        yield from (f"  {one}" for one in sorted(self.faults, key=lambda one: one.at_s))
        clients: list[Ask | Stop | Follow] = [*self.asks, *self.stops, *self.follows]
        yield from (f"  {one}" for one in sorted(clients, key=lambda one: one.at_s))


def plan_of(seed: int, engine: str = "scripted") -> Plan:
    """The plan of a seed."""
    plan = _on_one_redis(seed, engine)
    choice = random.Random(f"failover {engine} {seed}")
    return _replicated(plan, choice) if choice.random() < 0.1 else plan


def _replicated(plan: Plan, choice: random.Random) -> Plan:
    """The same with a failover in the place of all that befalls the one Redis."""
    failover = Fault(
        kind=Kind.FAILOVER,
        target="redis",
        at_s=round(choice.uniform(FAULTS_FROM_S, FAULTS_TO_S), 2),
        for_s=choice.choice((0.0, 5.0)),
    )
    others = [fault for fault in plan.faults if "redis" not in fault.target]
    topology = replace(plan.topology, has_small_disk=False, fsync="always", is_replicated=True)
    return replace(plan, topology=topology, faults=[*others, failover])


def _on_one_redis(seed: int, engine: str) -> Plan:
    choice = random.Random(f"{engine} {seed}")
    faults_wanted = choice.choice((1, 2, 2, 3, 3, 4))
    topology = _topology(choice)
    asks, stops, follows = _workload(choice, topology, engine)
    return Plan(
        seed=seed,
        engine=engine,
        topology=topology,
        asks=asks,
        stops=stops,
        follows=follows,
        faults=[_fault(choice, topology) for _ in range(faults_wanted)],
        until_compacted=choice.random() < 0.3,
    )


def _topology(choice: random.Random) -> Topology:
    nodes, workers = choice.choice((2, 2, 3)), choice.choice((2, 2, 3))
    is_shifted = choice.random() < 0.15
    child = choice.choice(
        (f"api-{choice.randint(1, nodes)}", f"worker-{choice.randint(1, workers)}")
    )
    return Topology(
        nodes=nodes,
        workers=workers,
        slots=choice.choice((2, 3, 4)),
        fsync=choice.choice(("everysec", "everysec", "always")),
        has_small_disk=choice.random() < 0.1,
        shifted=child if is_shifted else "",
        shift_s=choice.choice((-CLOCK_SHIFT_S, CLOCK_SHIFT_S)) if is_shifted else 0,
    )


def _workload(
    choice: random.Random, topology: Topology, engine: str
) -> tuple[list[Ask], list[Stop], list[Follow]]:
    asks: list[Ask] = []
    stops: list[Stop] = []
    follows: list[Follow] = []
    write = _scripted_ask if engine == "scripted" else _real_ask
    for number in range(choice.randint(3, 6)):
        name = "" if choice.random() < 0.2 else f"c{number}"
        at_s = round(choice.uniform(0, 1.5), 2)
        first = write(choice, name, f"c{number}", at_s, choice.randrange(topology.nodes))
        if choice.random() < 0.5:
            first = replace(first, key=f"k{number}", leaves_after_bytes=0)
        asks.append(first)
        if not name:
            continue
        later_s = round(at_s + choice.uniform(0.2, 3), 2)
        node = choice.randrange(topology.nodes)
        match choice.choice(("left", "left", "again", "again", "stopped")):
            case "again":
                anew = write(choice, name, f"c{number} anew", later_s, node)
                asks.append(replace(anew, if_busy=choice.choice(IF_BUSY)))
            case "stopped":
                keep = choice.random() < 0.5
                stops.append(Stop(name=name, at_s=later_s, node=node, keep=keep))
        follows += [_follow(choice, name, at_s, topology) for _ in range(choice.randint(1, 2))]
    return asks, stops, follows


def _scripted_ask(choice: random.Random, name: str, label: str, at_s: float, node: int) -> Ask:
    wishes = {
        "tokens": choice.randint(20, 160),
        "rate": choice.choice((30, 50, 100)),
        "seed": choice.randrange(1000),
    }
    stop, max_tokens, leaves = "", -1, 0
    match choice.choice(("even", "even", "bursts", "silence", "stop", "length", "prefill")):
        case "bursts":
            wishes["burst_every"] = choice.randint(3, 9)
        case "silence":
            wishes |= {"pause_at": choice.randint(1, 15), "pause_s": choice.randint(2, 4)}
        case "stop":
            stop = f"w{choice.randint(3, 15):04d}"
        case "length":
            max_tokens = choice.randint(1, 60)
        case "prefill":
            wishes["prefill_s"] = choice.randint(1, 2)
    if not name and choice.random() < 0.5:
        leaves = choice.randint(300, 6000)
    directive = " ".join(f"{key}={value}" for key, value in wishes.items())
    return Ask(
        name=name,
        words=f"{label} [[{directive}]]",
        at_s=at_s,
        node=node,
        stop=stop,
        max_tokens=max_tokens,
        leaves_after_bytes=leaves,
    )


def _real_ask(choice: random.Random, name: str, label: str, at_s: float, node: int) -> Ask:
    about = choice.choice(("the sea", "the moon", "an old house", "a dog and a cat", "the rain"))
    return Ask(
        name=name,
        words=f"Tell me about {about}.",
        at_s=at_s,
        node=node,
        max_tokens=choice.randint(10, 60),
    )


def _follow(choice: random.Random, name: str, at_s: float, topology: Topology) -> Follow:
    return Follow(
        name=name,
        at_s=round(at_s + choice.uniform(0, 2), 2),
        node=choice.randrange(topology.nodes),
        sends_epoch=choice.random() < 0.7,
        hop_bytes=choice.choice((0, 0, choice.randint(100, 400), choice.randint(1000, 8000))),
        pace_bytes_s=choice.choice((0, 0, 0, 30_000)),
    )


def _fault(choice: random.Random, topology: Topology) -> Fault:
    at_s = round(choice.uniform(FAULTS_FROM_S, FAULTS_TO_S), 2)
    node, worker = choice.choice(topology.node_names), choice.choice(topology.worker_names)
    link = choice.choice((f"client:{node}", f"redis:{node}", f"redis:{worker}"))
    drawn = choice.choice
    wishes: list[tuple[int, Kind, str, float]] = [
        (2, Kind.KILL, node, 0),
        (1, Kind.TERM, node, 0),
        (3, Kind.KILL, worker, 0),
        (2, Kind.TERM, worker, 0),
        (2, Kind.FREEZE, worker, drawn((1.5, 2.5)) * LEASE_S),
        (1, Kind.FREEZE, node, drawn((1, 3))),
        (1, Kind.FREEZE, "redis", drawn((1, 3, 2.5 * LEASE_S))),
        (3, Kind.CRASH, "redis", drawn((0.1, 0.1, 3))),
        (1, Kind.RESET, link, 0),
        (2, Kind.HALF_OPEN, link, 0),
        (1, Kind.HOLD, link, drawn((1, 3, 2 * LEASE_S))),
        (1, Kind.DELAY, link, drawn((2, 4))),
        (1, Kind.THROTTLE, link, drawn((2, 4))),
        (4 if topology.has_small_disk else 0, Kind.FILL, "redis", 2),
    ]
    [(_, kind, target, for_s)] = choice.choices(wishes, [weight for weight, *_ in wishes])
    # A kill alone loses nothing, since what was written stands in the kernel.
    cut_bytes = drawn((0, drawn((1, 400, 4_000)), choice.randint(1, CUT_BYTES_MAX)))
    is_crash = kind is Kind.CRASH
    return Fault(
        kind=kind, target=target, at_s=at_s, for_s=for_s, cut_bytes=cut_bytes if is_crash else 0
    )
