"""One slot, one end: random histories of calls, answers, refusals, losses and tables leave nothing behind."""

import random
from collections import Counter
from collections.abc import Callable

import pytest
from tests.wire.stage import Probe, Puppet, Stage

from rayserve.replica.work import Work

LARGE = 300 * 1024


class History:
    """One random history over two backends of two replicas each."""

    def __init__(self, stage: Stage, seed: int) -> None:
        self.stage = stage
        self.random = random.Random(seed)
        self.calls: list[Probe] = []
        self.given_up: set[Probe] = set()
        self.names = 0
        self.listed: dict[str, list[str]] = {"a": [], "b": []}
        for tag in ("a", "a", "b", "b"):
            self.listed[tag].append(self.new_name(tag))
        self.weights = {"a": 0.5, "b": 0.5}
        self.publish()

    def new_name(self, tag: str) -> str:
        self.names += 1
        return f"{tag}{self.names}"

    def publish(self) -> None:
        for tag, names in self.listed.items():
            self.stage.backend(tag, *names, limit=self.random.choice([1, 2, 4]), queued=self.random.choice([3, 50]))
        self.stage.endpoint("e", **self.weights).publish()

    def puppet(self) -> Puppet:
        return self.random.choice([puppet for puppet in self.stage.puppets.values() if puppet.alive])

    def running(self) -> tuple[Puppet, Work] | None:
        puppet = self.puppet()
        return (puppet, self.random.choice(puppet.running)) if puppet.running else None

    # -- what may happen ------------------------------------------------------------------------------

    def submit(self) -> None:
        draw = self.random.random
        upload = draw() < 0.2
        self.calls.append(
            self.stage.call(
                timeout_s=self.random.choice([0.05, 0.5, 30.0]),
                idempotent=draw() < 0.5,
                body=bytes(LARGE) if upload else b"x" * self.random.randrange(10),
                upload=upload,
                key=self.random.choice([None, "k", "l"]),
                grants=draw() < 0.8,
            )
        )

    def start(self) -> None:
        self.puppet().take()

    def answer(self) -> None:
        if found := self.running():
            found[0].answer(found[1], bytes(self.random.choice([0, 5, LARGE, 4 * LARGE])))

    def fail(self) -> None:
        if found := self.running():
            found[0].fail(found[1])

    def give_up(self) -> None:
        waiting = [call for call in self.calls if not call.ends and call not in self.given_up]
        if waiting:
            call = self.random.choice(waiting)
            self.given_up.add(call)
            self.stage.router.abandon(call)

    def cut(self) -> None:
        links = [channel.link for channel in self.stage.channels() if channel.link is not None]
        if links:
            self.random.choice(links).sock.shutdown(2)

    def replace(self) -> None:
        """Kill a replica, or let it drain; another one takes its place in the table."""
        tag = self.random.choice(["a", "b"])
        name = self.random.choice(self.listed[tag])
        if self.random.random() < 0.5:
            self.stage.puppets[name].kill()
        else:
            self.stage.puppets[name].drain()
        self.listed[tag].remove(name)
        self.listed[tag].append(self.new_name(tag))
        if self.random.random() < 0.5:
            self.stage.settle()  # the router may learn by itself before the table tells it
        self.publish()

    def swap(self) -> None:
        self.weights = self.random.choice([{"a": 1.0}, {"b": 1.0}, {"a": 0.5, "b": 0.5}, {}])
        self.publish()

    def wait(self) -> None:
        self.stage.pass_time(self.random.choice([0.0, 0.01, 0.1, 1.0]))

    def settle(self) -> None:
        self.stage.settle()

    def run(self, steps: int) -> None:
        moves: list[Callable[[], None]] = [self.submit, self.start, self.answer, self.fail, self.give_up, self.wait]
        moves += [self.settle, self.cut, self.replace, self.swap]
        weights = [30, 25, 15, 5, 10, 5, 20, 1, 1, 1]
        for _ in range(steps):
            self.random.choices(moves, weights)[0]()

    def finish(self) -> None:
        """Let every call come to its end."""
        self.weights = {"a": 1.0}
        self.publish()
        for _ in range(1000):
            self.stage.settle()
            for call in self.calls:
                call.grants = True
                if call.channel is not None:
                    call.channel.grant(call, 64 * 1024)
            busy = False
            for puppet in self.stage.puppets.values():
                while puppet.alive and puppet.take():
                    pass
                for work in list(puppet.running):
                    busy = True
                    puppet.answer(work)
            if not busy and not self.stage.router.held():
                return
            self.stage.pass_time(0.1)
        pytest.fail(f"{self.stage.router.held()} slots are still held")


def leftovers(stage: Stage) -> dict[str, int]:
    """Everything that must be zero when nothing is under way."""
    router = stage.router
    boards = [channel._notes._board for channel in stage.channels()]
    intakes = [puppet.intake for puppet in stage.puppets.values() if puppet.alive]
    return Counter(
        held=router.held(),
        deadlines=router._deadlines._waiting,
        owed=sum(len(channel._owed) for channel in stage.channels()),
        slots=sum(board._next - 1 - len(board._free) for board in boards if board is not None),
        replicas=sum(puppet.held for puppet in stage.puppets.values() if puppet.alive),
        turns=sum(len(intake._turns.rotation) for intake in intakes if not intake.draining),
        unsent=sum(channel.link.unsent for channel in stage.channels() if channel.link is not None),
    )


@pytest.mark.parametrize("seed", range(40))
def test_a_random_history_leaves_nothing_and_each_call_hears_one_end(seed: int) -> None:
    with Stage() as stage:
        history = History(stage, seed)
        history.run(400)
        history.finish()
        stage.settle()

        assert not any(leftovers(stage).values()), leftovers(stage)
        for call in history.calls:
            most = 0 if call in history.given_up else 1
            assert len(call.ends) == most, (call.ends, call.state)
        ends = Counter(end for call in history.calls for end in call.ends)
        assert ends["answered"] > 0
        assert ends["internal"] == 0


def test_10000_random_cancellations_bring_every_counter_back_to_zero() -> None:
    draw = random.Random(7)
    with Stage() as stage:
        stage.backend("a", "a1", "a2", limit=16, queued=10_000).endpoint("e", a=1.0).publish()
        live: list[Probe] = []
        cancelled = 0
        while cancelled < 10_000:
            live += [stage.call(idempotent=draw.random() < 0.5) for _ in range(40)]
            if draw.random() < 0.9:
                stage.settle()
            for puppet in stage.puppets.values():
                for _ in range(draw.randrange(8)):
                    puppet.take()
                for work in list(puppet.running):
                    if draw.random() < 0.3:
                        puppet.answer(work)
            draw.shuffle(live)
            for call in live[:35]:
                if not call.ends:
                    cancelled += 1
                    stage.router.abandon(call)
            del live[:35]
        for call in live:
            stage.router.abandon(call)
        stage.settle()
        for puppet in stage.puppets.values():
            assert puppet.take() is None
            for work in list(puppet.running):
                puppet.answer(work)
        stage.settle()

        assert not any(leftovers(stage).values()), leftovers(stage)
