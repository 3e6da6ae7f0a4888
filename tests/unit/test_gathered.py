"""What the controller has not seen yet, and nothing twice."""

from __future__ import annotations

from rayserve.controller.gathered import Gathered
from rayserve.model.facts import Facts, Report


def test_nothing_is_new_at_first_and_after_everything_was_seen() -> None:
    gathered = Gathered()
    assert not gathered.has_news("")
    gathered.add_facts(Facts("ingress-0", "ingress"))
    assert gathered.has_news("")
    assert not gathered.has_news(gathered.cursor)


def test_only_the_newest_facts_of_a_process_are_kept() -> None:
    gathered = Gathered()
    gathered.add_facts(Facts("a", "ingress", connections=1))
    gathered.add_facts(Facts("b", "handle"))
    gathered.add_facts(Facts("a", "ingress", connections=2))
    assert [(facts.process, facts.connections) for facts in gathered.since("")["facts"]] == [("a", 2), ("b", 0)]


def test_a_cursor_hides_what_was_seen() -> None:
    gathered = Gathered()
    gathered.add_facts(Facts("a", "ingress"))
    gathered.add_report(Report("r1", 1))
    seen = gathered.since("")
    gathered.add_report(Report("r2", 1, "boom"))
    fresh = gathered.since(seen["cursor"])
    assert fresh["facts"] == []
    assert fresh["reports"] == [Report("r2", 1, "boom")]
    assert gathered.has_reports(seen["cursor"])
    assert not gathered.has_reports(fresh["cursor"])


def test_a_cursor_of_another_life_gets_everything() -> None:
    before, after = Gathered(), Gathered()
    for number in range(3):
        before.add_report(Report("r", number))
    after.add_report(Report("r", 9))
    assert after.since(before.cursor)["reports"] == [Report("r", 9)]
    assert after.since("nonsense")["reports"] == [Report("r", 9)]


def test_who_left_is_told_and_its_last_facts_stay() -> None:
    gathered = Gathered()
    gathered.add_facts(Facts("a", "ingress", connections=3))
    gathered.left("a")
    told = gathered.since("")
    assert told["gone"] == ["a"]
    assert told["facts"][0].connections == 3


def test_who_came_back_is_not_gone() -> None:
    gathered = Gathered()
    gathered.left("a")
    gathered.came("a")
    assert gathered.since("")["gone"] == []


def test_facts_of_the_long_gone_are_dropped() -> None:
    gathered = Gathered()
    for number in range(1000):
        gathered.add_facts(Facts(f"driver-{number}", "handle"))
        gathered.left(f"driver-{number}")
    told = gathered.since("")
    assert len(told["gone"]) == len(told["facts"]) == 256
    assert told["facts"][-1].process == "driver-999"
