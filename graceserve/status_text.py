"""What the commands print, from what the master said. Pure; used by the client.

The master may be another graceserve version: whatever is missing is left out.
"""

from collections.abc import Mapping
from typing import Any

from graceserve.wire.messages import Told

_REASON_CHARS_MAX = 160


def told_text(told: Told, asked: str) -> tuple[str, str]:
    """A verdict, for stdout and for stderr. `asked` is "reload" or "rollback"."""
    match told.outcome:
        case "switched":
            phases = {name: _seconds(took) for name, took in told.phases.items() if name != "total"}
            timings = ", ".join(f"{name} {took}" for name, took in phases.items())
            total = f" in {_seconds(told.phases['total'])}" if "total" in told.phases else ""
            lines = [f"switched to generation {told.generation} ({told.release}){total}"]
            return "\n".join(lines + ([f"  {timings}"] if timings else [])), ""
        case "superseded":
            return "", f"{asked} superseded by generation {told.superseded_by}"
        case "stopped":
            return "", f"{asked} not done: the server is stopping"
    detail = f"\n{told.detail.rstrip()}" if told.detail else ""
    return "", f"{asked} failed, nothing has changed: {told.reason or told.outcome}{detail}"


def status_text(status: Mapping[str, Any]) -> str:
    """Some lines about the master, then one a generation and one a worker."""
    lines = [_head(status)]
    if status.get("stopping"):
        lines.append("stopping")
    lines += [f"listening on {name}" for name in status.get("listeners") or ()]
    lines += _generations(status)
    last = status.get("last_reload")
    if last:
        lines.append(_last_reload(last))
    return "\n".join(lines)


def _head(status: Mapping[str, Any]) -> str:
    words = [f"master {status.get('pid', '?')}"]
    if status.get("name"):
        words.append(f"[{status['name']}]")
    if status.get("version"):
        words.append(f"graceserve {status['version']}")
    if status.get("python"):
        words.append(f"Python {status['python']}")
    if "since_s" in status:
        words.append(f"up {_span(status['since_s'])}")
    if "workers_wanted" in status:
        words.append(f"workers wanted {status['workers_wanted']}")
    return ", ".join(words).replace(", [", " [")


def _generations(status: Mapping[str, Any]) -> list[str]:
    lines = []
    for row in status.get("generations") or ():
        serving = " *" if row.get("generation") == status.get("generation") else ""
        words = [f"generation {row.get('generation', '?')}{serving}", str(row.get("phase", "?"))]
        release = row.get("title") or row.get("release")
        words += [f"release {release}"] if release else []
        words += [f"Python {row['python']}"] if row.get("python") else []
        words += [f"template {row['template_pid']}"] if row.get("template_pid") else []
        words += [f"in this phase {_span(row['age_s'])}"] if "age_s" in row else []
        lines.append(", ".join(words))
        lines += [_worker(worker) for worker in row.get("workers") or ()]
    return lines


def _worker(row: Mapping[str, Any]) -> str:
    """`worker SLOT` is what ps shows; the number counts all workers since the start."""
    number = f" (no. {row['worker']})" if "worker" in row else ""
    words = [f"  worker {row.get('slot', '?')}{number} pid {row.get('pid', '?')}"]
    words.append(str(row.get("phase", "?")))
    if row.get("rss_bytes"):
        words.append(f"{row['rss_bytes'] / 1_048_576:.1f} MiB")
    if row.get("answers") is False:  # its counters are of a while ago
        words.append("busy (does not answer)")
    else:
        words += [f"{key} {row[key]}" for key in ("requests", "connections", "busy") if key in row]
    words += [f"up {_span(row['age_s'])}"] if "age_s" in row else []
    return ", ".join(words)


def _last_reload(row: Mapping[str, Any]) -> str:
    words = f"last reload: {row.get('outcome', '?')}"
    if row.get("generation"):
        words += f" generation {row['generation']}"
    if "at_s_ago" in row:
        words += f" {_span(row['at_s_ago'])} ago"
    reason = str(row.get("reason") or "")
    if len(reason) > _REASON_CHARS_MAX:
        reason = reason[: _REASON_CHARS_MAX - 3] + "..."
    return f"{words}: {reason}" if reason else words


def _seconds(value: Any) -> str:
    return f"{value:.2f} s" if isinstance(value, (int, float)) else str(value)


def _span(value: Any) -> str:
    """A duration as a person says it: "5 s", "12 min", "3 h", "9 d"."""
    if not isinstance(value, (int, float)):
        return str(value)
    for unit_s, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if value >= 2 * unit_s:
            return f"{int(value / unit_s)} {unit}"
    return f"{value:.1f} s" if value < 10 else f"{int(value)} s"
