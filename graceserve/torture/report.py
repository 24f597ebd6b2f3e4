"""The report of a run, for people and as JSON, and what there is to complain of. Pure; used by `graceserve torture`."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from graceserve.torture.tally import MEASURED, Counts, Example, Kind, Phase, Tally, Verdict, quantile

QUANTILES = {"p50": 0.5, "p99": 0.99, "p99.9": 0.999, "max": 1.0}
LAG_S_MAX = 0.05  # above it the report warns
_STEADY = (Phase.WARM_UP, Phase.BEFORE)


@dataclass(frozen=True, slots=True)
class Facts:
    """What the tally does not know. `server` is who was reloaded, and how; empty if nobody was."""

    url: str
    server: str
    clients: Mapping[Kind, int]
    took_s: float
    verdicts: Sequence[Verdict] = ()
    gone: str = ""  # who was not there any more in the end
    interrupted: bool = False
    notes: Sequence[str] = ()


def complaints(facts: Facts, tally: Tally) -> list[str]:
    """Why the server has not passed; empty if it has."""
    found = []
    lost = sum(_total(counts.lost) for counts in tally.counts.values())
    before = sum(counts.lost[phase] for counts in tally.counts.values() for phase in _STEADY)
    if lost:
        some = f" ({before} of them before the first reload, which is not to blame for those)" if before else ""
        found.append(f"{_number(lost, 'request')} lost{some}")
    closed = sum(counts.closed_by_reloads for counts in tally.counts.values())
    if closed and facts.server:
        found.append(f"{_number(closed, 'connection')} closed since the first reload")
    failed = sum(not verdict.ok for verdict in facts.verdicts)
    if failed:
        found.append(f"{_number(failed, 'reload')} failed")
    return found + ([facts.gone] if facts.gone else [])


# --- for people -----------------------------------------------------------------------------------------------------


def as_text(facts: Facts, tally: Tally) -> str:
    """Lines of at most some 110 columns."""
    lines = ["", f"{facts.url}, {facts.took_s:.1f} s{', interrupted' if facts.interrupted else ''}"]
    lines += [_reloads(facts), ""]
    lines += _table(_count_rows(facts, tally))
    lines += _notes(facts, tally)
    lines += ["", *_table(_latency_rows(tally))]
    for what, examples in (("lost", "examples_lost"), ("closed", "examples_closed")):
        shown = [
            f"  {kind.value}: {_example(one)}"
            for kind, counts in tally.counts.items()
            for one in getattr(counts, examples)
        ]
        lines += ["", f"{what}, for example:", *shown] if shown else []
    return "\n".join([*lines, "", _last_line(facts, tally)])


def _reloads(facts: Facts) -> str:
    if not facts.server:
        return "no reloads"
    failed = sum(not verdict.ok for verdict in facts.verdicts)
    known = sorted(verdict.took_s for verdict in facts.verdicts if verdict.known and verdict.ok)
    took = f"; median {quantile(known, 0.5):.2f} s, longest {known[-1]:.2f} s" if known else ""
    silent = "" if all(verdict.known for verdict in facts.verdicts) else " or unknown: a HUP has no answer"
    return f"{_number(len(facts.verdicts), 'reload')} of {facts.server}; {failed} failed{silent}{took}"


def _count_rows(facts: Facts, tally: Tally) -> Iterator[list[str]]:
    yield ["clients", "", "requests", "lost", "refused", "connections", "closed: announced", "unannounced"]
    for kind, counts in tally.counts.items():
        numbers = (counts.requests, _total(counts.lost), counts.refused, counts.opened)
        closed = (_by_phase(counts.announced), _by_phase(counts.unannounced))
        one_shot = kind is Kind.ONE_SHOT
        yield [kind.value, str(facts.clients[kind]), *map(str, numbers), *(("-", "-") if one_shot else closed)]


def _by_phase(counts: Mapping[Phase, int]) -> str:
    """ "7", or "9 (2+7+0)": before, during and after."""
    before = counts[Phase.WARM_UP] + counts[Phase.BEFORE]
    total = _total(counts)
    parts = f"{before}+{counts[Phase.DURING]}+{counts[Phase.AFTER]}"
    return f"{total} ({parts})" if total else "0"


def _notes(facts: Facts, tally: Tally) -> Iterator[str]:
    yield from facts.notes
    if any(_total(counts.announced) + _total(counts.unannounced) for counts in tally.counts.values()):
        yield "in brackets: before the first reload + during the reloads + after the last"
    lag_s = max((late for phase in MEASURED for late in tally.lag_s[phase]), default=0.0)
    if lag_s > LAG_S_MAX:
        yield f"this program itself was late by up to {_ms(lag_s)} ms: latencies of that size may be its own"
    for kind, counts in tally.counts.items():
        if not counts.keeps_alive and kind is not Kind.ONE_SHOT:
            yield f"{kind.value}: the server closes after each response, reload or not; that is not counted against it"
        if counts.refused:
            yield f"{kind.value}: {counts.refused} responses with a status of 4xx; they count as answers"
        if counts.pushed_back:
            what = _number(counts.pushed_back, "request")
            yield f"{kind.value}: {what} stood behind an announced close, unanswered; a client may send them again"


def _latency_rows(tally: Tally) -> Iterator[list[str]]:
    yield ["latency in ms", "", *QUANTILES, "longest gap", "answers"]
    for kind, counts in tally.counts.items():
        name = kind.value
        for phase, shown in _shown(counts.latency_s):
            yield [name, phase.value, *shown, _ms(counts.gap_s[phase]), str(counts.answered[phase])]
            name = ""
    name = "own lag"
    for phase, shown in _shown(tally.lag_s):
        yield [name, phase.value, *shown, "", ""]
        name = ""


def _shown(series: Mapping[Phase, Sequence[float]]) -> Iterator[tuple[Phase, list[str]]]:
    """The phases in which there is something, with its quantiles."""
    for phase in MEASURED:
        if series[phase]:
            yield phase, [_ms(value) for value in _quantiles(series[phase]).values()]


def _example(example: Example) -> str:
    reload = f"reload {example.reload}" if example.reload else "before the first reload"
    return f"{example.at_s:+.3f} s, {reload}: {example.why}"


def _last_line(facts: Facts, tally: Tally) -> str:
    found = complaints(facts, tally)
    if found:
        return f"NOT PASSED: {'; '.join(found)}"
    answers = sum(_total(counts.answered) for counts in tally.counts.values())
    if not facts.server:
        return f"{answers} requests, none lost; nothing was reloaded"
    passed = "so far" if facts.interrupted else "passed"
    return f"{passed}: {answers} requests, none lost; no connection was closed by a reload"


def _table(rows: Iterable[list[str]]) -> Iterator[str]:
    """Words to the left (the first two columns), numbers to the right."""
    kept = list(rows)
    widths = [max(map(len, column)) for column in zip(*kept, strict=True)]
    for row in kept:
        cells = [
            cell.ljust(width) if number < 2 else cell.rjust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        yield "  ".join(cells).rstrip()


# --- as JSON --------------------------------------------------------------------------------------------------------


def as_json(facts: Facts, tally: Tally) -> str:
    """The same; times are seconds."""
    return json.dumps(_document(facts, tally), indent=2)


def _document(facts: Facts, tally: Tally) -> dict[str, Any]:
    found = complaints(facts, tally)
    return {
        "url": facts.url,
        "server": facts.server,
        "took_s": facts.took_s,
        "interrupted": facts.interrupted,
        "passed": not found and not facts.interrupted,
        "complaints": found,
        "notes": list(facts.notes),
        "reloads": [_record(verdict) for verdict in facts.verdicts],
        "clients": {kind.value: _kind(facts.clients[kind], counts) for kind, counts in tally.counts.items()},
        "own_lag_s": _latencies(tally.lag_s),
    }


def _kind(clients: int, counts: Counts) -> dict[str, Any]:
    return {
        "clients": clients,
        "requests": counts.requests,
        "answered": _phases(counts.answered),
        "lost": _phases(counts.lost),
        "refused": counts.refused,
        "pushed_back": counts.pushed_back,
        "connections": counts.opened,
        "closed_announced": _phases(counts.announced),
        "closed_unannounced": _phases(counts.unannounced),
        "closed_by_reloads": counts.closed_by_reloads,
        "keeps_alive": counts.keeps_alive,
        "latency_s": _latencies(counts.latency_s),
        "longest_gap_s": {phase.value: counts.gap_s[phase] for phase in MEASURED},
        "examples_lost": [_record(one) for one in counts.examples_lost],
        "examples_closed": [_record(one) for one in counts.examples_closed],
    }


def _record(one: Example | Verdict) -> dict[str, Any]:
    return {name: getattr(one, name) for name in one.__slots__}


def _latencies(series: Mapping[Phase, Sequence[float]]) -> dict[str, dict[str, float]]:
    return {phase.value: _quantiles(series[phase]) for phase in MEASURED if series[phase]}


def _phases(counts: Mapping[Phase, int]) -> dict[str, int]:
    return {phase.value: count for phase, count in counts.items()}


def _quantiles(taken: Sequence[float]) -> dict[str, float]:
    ordered = sorted(taken)
    return {name: quantile(ordered, q) for name, q in QUANTILES.items()}


# --- words ----------------------------------------------------------------------------------------------------------


def _total(counts: Mapping[Phase, int]) -> int:
    return sum(counts.values())


def _number(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.1f}"
