"""The account of a torture, and the report that is made of it."""

import json

import pytest

from graceserve.torture.report import Facts, as_json, as_text, complaints
from graceserve.torture.tally import Example, Kind, Phase, Tally, Verdict, quantile

KEEP, ONE = Kind.KEEP_ALIVE, Kind.ONE_SHOT
GOOD = (Verdict(True, "switched", 0.5), Verdict(True, "switched", 0.7))


def facts(*verdicts: Verdict, server: str = "graceserve master 7", gone: str = "", interrupted: bool = False) -> Facts:
    clients = {KEEP: 2, ONE: 1}
    return Facts("http://x/", server, clients, 9.5, verdicts or GOOD, gone, interrupted)


def steady(announced: bool = False) -> Tally:
    """Up to the first reload, at 3 s: an answer of each client in 10 ms."""
    tally = Tally([KEEP, ONE])
    tally.opened(KEEP)
    tally.enter(Phase.BEFORE, 1.0)
    for kind in (KEEP, ONE):
        tally.answered(kind, 2.0, 2.01, 200)
    if announced:
        tally.closed(KEEP, 2.01, True, "Connection: close")
    tally.enter(Phase.DURING, 3.0)
    tally.reload = 1
    return tally


@pytest.mark.parametrize(
    ("q", "expected"), [(0.0, 1.0), (0.5, 5.0), (0.9, 9.0), (0.91, 10.0), (0.99, 10.0), (1.0, 10.0)]
)
def test_quantile(q: float, expected: float) -> None:
    assert quantile([float(number) for number in range(1, 11)], q) == expected


def test_quantile_of_nothing_and_of_one() -> None:
    assert quantile([], 0.5) == 0.0
    assert {quantile([3.0], q) for q in (0.0, 0.5, 0.999, 1.0)} == {3.0}


def test_what_is_in_flight_at_a_reload_belongs_to_it() -> None:
    tally = Tally([KEEP])
    tally.answered(KEEP, 0.1, 0.2, 200)
    tally.enter(Phase.BEFORE, 1.0)
    tally.answered(KEEP, 0.9, 1.1, 200)  # begun in the warm-up
    tally.answered(KEEP, 1.2, 1.3, 200)
    tally.enter(Phase.DURING, 2.0)
    tally.answered(KEEP, 1.9, 2.5, 200)
    tally.enter(Phase.AFTER, 3.0)
    tally.answered(KEEP, 2.9, 3.5, 200)
    tally.answered(KEEP, 3.6, 3.7, 200)
    assert tally.counts[KEEP].answered == {Phase.WARM_UP: 2, Phase.BEFORE: 1, Phase.DURING: 2, Phase.AFTER: 1}
    assert list(tally.counts[KEEP].latency_s[Phase.DURING]) == pytest.approx([0.6, 0.6])


def test_gaps() -> None:
    """Silence counts, whether or not an answer ends it; and not after the end."""
    tally = steady()
    tally.answered(KEEP, 6.0, 7.0, 200)
    tally.enter(Phase.AFTER, 8.0)
    tally.answered(KEEP, 8.1, 8.2, 200)
    tally.finish(12.0)
    tally.answered(KEEP, 12.0, 99.0, 200)
    gaps = tally.counts[KEEP].gap_s
    assert gaps[Phase.DURING] == pytest.approx(7.0 - 2.01)
    assert gaps[Phase.AFTER] == pytest.approx(12.0 - 8.2)
    assert tally.counts[ONE].gap_s[Phase.DURING] == pytest.approx(12.0 - 2.01)


def test_statuses() -> None:
    tally = steady()
    for status in (200, 304, 404, 405, 500, 503):
        tally.answered(KEEP, 4.0, 4.1, status)
    counts = tally.counts[KEEP]
    assert (counts.requests, counts.refused, sum(counts.lost.values())) == (7, 2, 2)
    assert counts.examples_lost == [Example(4.1, 1, "status 500"), Example(4.1, 1, "status 503")]


def test_examples_are_few_and_different() -> None:
    tally = steady()
    for why in "aabacdde":
        tally.lost(KEEP, 4.0, why)
    assert [one.why for one in tally.counts[KEEP].examples_lost] == ["a", "b", "c"]


def test_passed() -> None:
    tally = steady()
    assert complaints(facts(), tally) == []
    assert as_text(facts(), tally).endswith("\npassed: 2 requests, none lost; no connection was closed by a reload")


def test_lost() -> None:
    tally = steady()
    tally.lost(KEEP, 4.0, "closed", 2)
    assert complaints(facts(), tally) == ["2 requests lost"]


def test_lost_before_the_first_reload() -> None:
    tally = Tally([KEEP])
    tally.lost(KEEP, 0.5, "status 503")
    assert complaints(facts(), tally) == [
        "1 request lost (1 of them before the first reload, which is not to blame for those)"
    ]


@pytest.mark.parametrize("announced", [True, False])
@pytest.mark.parametrize("phase", [Phase.DURING, Phase.AFTER])
def test_a_closed_connection(announced: bool, phase: Phase) -> None:
    """Also some time after the last reload: old workers may linger."""
    tally = steady()
    tally.enter(phase, 3.0)
    tally.closed(KEEP, 4.0, announced, "closed")
    assert complaints(facts(), tally) == ["1 connection closed since the first reload"]
    assert complaints(facts(server=""), tally) == []
    assert tally.counts[KEEP].examples_closed == [Example(4.0, 1, "closed")]


def test_a_server_without_keep_alive_is_not_blamed_for_that() -> None:
    tally = steady(announced=True)
    tally.closed(KEEP, 4.0, True, "Connection: close")
    assert complaints(facts(), tally) == []
    assert "keep-alive: the server closes after each response" in as_text(facts(), tally)
    tally.closed(KEEP, 4.0, False, "reset")
    assert complaints(facts(), tally) == ["1 connection closed since the first reload"]


def test_failed_reloads_and_a_server_that_is_gone() -> None:
    verdicts = (*GOOD, Verdict(False, "no app", 0.1))
    assert complaints(facts(*verdicts, gone="the server (pid 7) is gone"), steady()) == [
        "1 reload failed", "the server (pid 7) is gone"
    ]  # fmt: skip


def test_the_report() -> None:
    tally = steady()
    tally.answered(KEEP, 3.0, 3.25, 404)
    tally.closed(KEEP, 3.3, True, "Connection: close, 2 requests on it")
    tally.pushed_back(KEEP, 3)
    tally.lost(ONE, 3.5, "connect: Connection refused")
    tally.lagged(4.0, 4.06)
    assert as_text(facts(*GOOD, Verdict(False, "no app", 0.1)), tally).split("\n") == [
        "",
        "http://x/, 9.5 s",
        "3 reloads of graceserve master 7; 1 failed; median 0.50 s, longest 0.70 s",
        "",
        "clients        requests  lost  refused  connections  closed: announced  unannounced",
        "keep-alive  2         2     0        1            1          1 (0+1+0)            0",
        "one-shot    1         2     1        0            0                  -            -",
        "in brackets: before the first reload + during the reloads + after the last",
        "this program itself was late by up to 60.0 ms: latencies of that size may be its own",
        "keep-alive: 1 responses with a status of 4xx; they count as answers",
        "keep-alive: 3 requests stood behind an announced close, unanswered; a client may send them again",
        "",
        "latency in ms            p50    p99  p99.9    max  longest gap  answers",
        "keep-alive     before   10.0   10.0   10.0   10.0       1010.0        1",
        "               during  250.0  250.0  250.0  250.0       1240.0        1",
        "one-shot       before   10.0   10.0   10.0   10.0       1010.0        1",
        "own lag        during   60.0   60.0   60.0   60.0",
        "",
        "lost, for example:",
        "  one-shot: +3.500 s, reload 1: connect: Connection refused",
        "",
        "closed, for example:",
        "  keep-alive: +3.300 s, reload 1: Connection: close, 2 requests on it",
        "",
        "NOT PASSED: 1 request lost; 1 connection closed since the first reload; 1 reload failed",
    ]


def test_other_last_lines_and_notes() -> None:
    assert "2 reloads of pid 7, by HUP; 0 failed or unknown: a HUP has no answer" in as_text(
        facts(*[Verdict(True, "HUP sent", 0.0, known=False)] * 2, server="pid 7, by HUP"), steady()
    )
    assert as_text(facts(interrupted=True), steady()).endswith("so far: 2 requests, none lost; no connection was closed"
                                                               " by a reload")  # fmt: skip
    none = as_text(facts(server=""), steady())
    assert "\nno reloads\n" in none and none.endswith("2 requests, none lost; nothing was reloaded")
    left_out = Facts("http://x/", "", {KEEP: 1, ONE: 1}, 1.0, notes=("no pipelined clients",))
    assert "\nno pipelined clients\n" in as_text(left_out, steady())


def test_the_report_as_json() -> None:
    tally = steady()
    tally.lost(ONE, 3.5, "connect: Connection refused")
    found = json.loads(as_json(facts(), tally))
    assert (found["passed"], found["complaints"]) == (False, ["1 request lost"])
    assert found["reloads"][1] == {"ok": True, "text": "switched", "took_s": 0.7, "known": True}
    one = found["clients"]["one-shot"]
    assert one["lost"] == {"warm-up": 0, "before": 0, "during": 1, "after": 0}
    assert one["examples_lost"] == [{"at_s": 3.5, "reload": 1, "why": "connect: Connection refused"}]
    assert one["latency_s"]["before"]["max"] == pytest.approx(0.01)
    assert json.loads(as_json(facts(interrupted=True), steady()))["passed"] is False
