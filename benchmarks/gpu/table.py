"""The one table at the end: kernel, correct, time, bytes, share of the roofline, ratio to each peer."""

from ..libcpab_compiled import NAME as LIBCPAB
from ..providers import EAGER

PEERS = (EAGER, "torch eager, S copies", "torch.compile", "kornia", "libcpab", LIBCPAB)
OURS = "stn_kernels "
NO_GRAPH = "no CUDA graph"  # how the reason begins of one whose calls alone are measured
SHORT = ("large", "papers")  # suites of the printed table; the file has all


def lines(rows: list[dict], suites: tuple[str, ...] | None = None) -> list[str]:
    """Markdown. Times are device times (replayed CUDA graphs); ratios above 1 mean faster than the peer."""
    measured = {r["provider"] for r in rows}
    peers = [p for p in PEERS if p in measured]
    heads = ["kernel", "case", "correct", "us", "p10-p90", "call us", "MB", "share", *(f"x {p}" for p in peers)]
    found = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    by = {(r["op"], r["case"], r["pass"], r["provider"]): r for r in rows}
    for row in rows:
        if row["provider"].startswith(OURS) and (suites is None or row["suite"] in suites):
            cells = [f"{row['op']} {row['pass']} {row['provider'].removeprefix(OURS)}", row["case"], correct(row)]
            cells += [*times(row), f"{row['bytes'] / 1e6:.3g}", percent(row.get("share"))]
            cells += [against(row, by.get((row["op"], row["case"], row["pass"], p))) for p in peers]
            found.append("| " + " | ".join(cells) + " |")
    return found


def correct(row: dict) -> str:
    """The largest error against float64, or why there is no number."""
    if row.get("reason"):
        return f"NO: {row['reason']}"
    errors = [v for k, v in row.items() if k.startswith("error_") and v is not None]
    return f"yes ({max(errors):.0e})" if errors else "yes"


def times(row: dict) -> list[str]:
    def us(key):
        return f"{1e3 * row[key]:.3g}" if row.get(key) is not None else ""

    spread = f"{us('device_p10_ms')}-{us('device_p90_ms')}" if row.get("device_p10_ms") is not None else ""
    return [us("device_median_ms"), spread, us("median_ms")]


def percent(value) -> str:
    return "" if value is None else f"{100 * value:.0f} %"


def against(row: dict, peer: dict | None) -> str:
    """A peer's device time by ours, or of calls if it has no CUDA graph; "refused" if the peer's results are wrong."""
    if peer is None:
        return ""
    reason = peer.get("reason") or ""
    if reason and not reason.startswith(NO_GRAPH) and not peer.get("device_median_ms"):
        return "refused"
    which, note = ("median_ms", " (calls)") if reason.startswith(NO_GRAPH) else ("device_median_ms", "")
    mine, theirs = row.get(which), peer.get(which)
    return f"{theirs / mine:.3g}{note}" if mine and theirs else ""
