"""What the figures mean: names, groups and goals, and the tables made from results. A result file
is what bench/run writes; everything here only reads it.

A column is an engine of Insula or another monitor. A slowdown is the host's rate by the guest's;
the ratio to TCG is QEMU's slowdown by the column's: above 1 is faster than QEMU."""

import json
import math
import statistics

GROUPS = {
    "integer": "integer and interpreters",
    "float": "floating point and SIMD",
    "memory": "memory",
    "code": "generated code",
    "kernel": "kernel work",
    "smp": "two vcpus",
    "disk": "virtio disk",
}

# Groups of which no geomean is taken: their rows have goals of their own, among the singles.
ROWS_ONLY = ("smp", "disk")

WORKLOADS = {
    "core": "core loop", "sha256": "SHA-256 in C", "lua_fib": "Lua fib",
    "lua_strings": "Lua strings", "lua_nbody": "Lua nbody", "lua_spectral": "Lua spectral",
    "deflate": "zlib deflate", "inflate": "zlib inflate", "bzip2": "bzip2", "zstd": "zstd",
    "unzstd": "zstd decompress", "sqlite_insert": "SQLite insert",
    "sqlite_select": "SQLite select", "matmul": "double matmul", "nbody": "nbody in C",
    "x87": "x87", "avx2": "AVX2", "memcpy": "memcpy", "rep_movsq": "rep movsq",
    "read64m": "read 64 MB", "chase16k": "pointer chase, 16 KB",
    "chase16m": "pointer chase, 16 MB", "smc": "self-modifying code", "fresh_code": "fresh code",
    "getpid": "getpid", "clock_gettime": "clock_gettime", "page_fault": "page fault",
    "mprotect": "mprotect", "tmpfs_file": "tmpfs file", "signal": "signal",
    "segv": "SEGV barrier", "pipe": "pipe ping-pong", "futex": "futex ping-pong",
    "fork_exit": "fork + exit", "fork_exec": "fork + exec",
    "lock_2cpu": "contended lock", "futex_2cpu": "futex ping-pong across",
    "disk_read": "1 MiB O_DIRECT reads",
}

PEERS = {"qemu": "QEMU TCG", "bochs": "Bochs"}
SINGLE_ENGINE = "insula"  # the column of results that are older than the second engine

# For each engine: slowdown against the host that a group or a row is to stay under.
NATIVE_GOALS = {
    "interpret": {"integer": 15, "float": 20, "memory": 6, "kernel": 12},
    "translate": {"integer": 2.2, "float": 2.0, "memory": 1.6, "code": 20, "kernel": 3.3,
                  "lock_2cpu": 2.0, "futex_2cpu": 1.4},
}

# For each engine: how many times faster than TCG a group is to be, at least; and any one row.
TCG_GOALS = {
    "translate": {"integer": 3.6, "float": 13, "memory": 5, "code": 11, "kernel": 2, "row": 1},
}

# For each engine: at most, in the units of SINGLES.
SINGLE_GOALS = {
    "interpret": {"boot_s": 3, "own_memory_bytes": 20e6},
    "translate": {"boot_s": 0.8, "own_memory_bytes": 40e6},
}

DISK_GOAL = 0.6  # of the host's rate, at least, for every engine


def load(path):
    """Results, with the column of a single engine named after it."""
    results = json.loads(path.read_text())
    for table in (results["monitors"], *results["workloads"].values()):
        if SINGLE_ENGINE in table:
            kept = dict(table)
            table.clear()
            table.update({"interpret" if k == SINGLE_ENGINE else k: v for k, v in kept.items()})
    return results


def column_name(column):
    return PEERS.get(column, f"Insula {column}")


def engines(results):
    return [c for c in results["monitors"] if c not in PEERS]


def peers(results):
    return [c for c in results["monitors"] if c in PEERS]


def geomean(values):
    return math.exp(sum(map(math.log, values)) / len(values))


def slowdown(results, name, column):
    """Median over rounds of host rate by guest rate, each pair measured one after the other."""
    rounds = results["workloads"].get(name, {}).get(column, {}).get("slowdowns")
    return statistics.median(rounds) if rounds else None


def tcg_slowdown(results, name):
    """QEMU's slowdown: of this run or, where it was left out, of the results stored before."""
    return slowdown(results, name, "qemu") or results.get("tcg_stored", {}).get(name)


def tcg_ratio(results, name, column):
    mine, tcg = slowdown(results, name, column), tcg_slowdown(results, name)
    return tcg / mine if mine and tcg else None


def _group_geomean(results, group, value):
    values = [v for name, w in results["workloads"].items()
              if w["group"] == group and (v := value(results, name))]
    return geomean(values) if values else None


def group_geomean(results, group, column):
    return _group_geomean(results, group, lambda r, name: slowdown(r, name, column))


def group_tcg_ratio(results, group, column):
    return _group_geomean(results, group, lambda r, name: tcg_ratio(r, name, column))


def times(x):
    if x is None:
        return "-"
    return f"{x:.2f}x" if x < 0.995 else f"{x:.1f}x" if x < 19.95 else f"{x:.0f}x"


def _median(results, what, column):
    samples = results["monitors"].get(column, {}).get(what)
    return statistics.median(samples) if samples else None


def _seconds(value):
    return f"{value:.2f} s"


def _megabytes(value):
    return f"{value / 1e6:.1f} MB"


# Medians of what is measured of a monitor: key, title, how to print it.
SINGLES = (
    ("boot_s", "process start to /init, 512 MB", _seconds),
    ("boot_packed_s", "the same, kernel unpacking itself", _seconds),
    ("command_s", "insula run -- true, from start to end", _seconds),
    ("own_memory_bytes", "monitor's own memory, idle 512 MB guest", _megabytes),
)


class Cell:
    """A figure of the summary: as text, its goal as text, and whether it misses that."""

    def __init__(self, value, show=times, goal=None, at_least=False):
        self.text = show(value) if value is not None else "-"
        self.goal = "" if goal is None else f"{goal:g}x" if show is times else show(goal)
        # Where rounding would hide on which side of the goal it is.
        self.exact = f"{value:.4g}" if goal and show(goal) == self.text else self.text
        self.at_least = at_least
        self.missed = (value is not None and goal is not None
                       and (value < goal if at_least else value > goal))


def summary(results):
    """Rows of title, one Cell for each column, and one for each engine's ratio to TCG or None."""
    rows, columns = [], list(results["monitors"])

    def add(title, cells, ratios=None):
        if any(cell.text != "-" for cell in cells):
            rows.append((title, cells, ratios))

    for group, title in GROUPS.items():
        if group in ROWS_ONLY:
            continue
        add(f"{title}, geomean slowdown",
            [Cell(group_geomean(results, group, c), goal=NATIVE_GOALS.get(c, {}).get(group))
             for c in columns],
            [Cell(group_tcg_ratio(results, group, c), goal=TCG_GOALS.get(c, {}).get(group),
                  at_least=True) for c in engines(results)])
    for name, w in results["workloads"].items():
        if w["group"] == "smp":
            add(f"{GROUPS['smp']}: {WORKLOADS.get(name, name)}, slowdown",
                [Cell(slowdown(results, name, c), goal=NATIVE_GOALS.get(c, {}).get(name))
                 for c in columns],
                [Cell(tcg_ratio(results, name, c), at_least=True) for c in engines(results)])
    for what, title, show in SINGLES:
        add(title, [Cell(_median(results, what, c), show, SINGLE_GOALS.get(c, {}).get(what))
                    for c in columns])
    shares = [slowdown(results, "disk_read", c) for c in columns]
    add("virtio disk, 1 MiB O_DIRECT reads, of the host's rate",
        [Cell(1 / s if s else None, lambda v: f"{100 * v:.0f} %",
              None if c in PEERS else DISK_GOAL, True) for c, s in zip(columns, shares)])
    return rows


def misses(results):
    """A line for each goal that is missed, and for each row on which TCG is faster though an
    engine is never to be slower."""
    lines, columns = [], list(results["monitors"])
    for title, cells, ratios in summary(results):
        for what, names, row in (("", columns, cells),
                                 (" against TCG", engines(results), ratios or [])):
            lines += [f"{name}: {title}{what}: {cell.exact}, the goal is "
                      f"{'at least' if cell.at_least else 'at most'} {cell.goal}"
                      for name, cell in zip(names, row) if cell.missed]
    for column in engines(results):
        floor = TCG_GOALS.get(column, {}).get("row")
        for name in results["workloads"] if floor else ():
            ratio = tcg_ratio(results, name, column)
            if ratio and ratio < floor and name != "disk_read":
                lines.append(f"{column}: {WORKLOADS.get(name, name)} is slower than on TCG: "
                             f"{times(ratio)}")
    return lines


def detail(results):
    """Rows of group, title, texts: a slowdown for each column, then the engines' ratios to TCG;
    ratios below 1 are marked."""
    rows, columns = [], list(results["monitors"])
    for group in GROUPS:
        for name, w in results["workloads"].items():
            if w["group"] != group:
                continue
            cells = ["failed" if w.get(c, {}).get("failed") else times(slowdown(results, name, c))
                     for c in columns]
            for engine in engines(results):
                ratio = tcg_ratio(results, name, engine)
                cells.append(times(ratio) + ("!" if ratio and ratio < 1 else ""))
            rows.append((group, WORKLOADS.get(name, name), cells))
    return rows


def _tcg_when(results):
    if "qemu" in results["monitors"] or "tcg_stored" not in results:
        return ""
    return f"of {results['tcg_stored_date'][:10]}"


def markdown(results):
    """The README's table."""
    host = results["host"]
    head = [""]
    for c in engines(results):
        head += [column_name(c), "goal"]
        head += ["against TCG", "goal"] if c in TCG_GOALS else ["against TCG"]
    head += [column_name(c) for c in peers(results)]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for title, cells, ratios in summary(results):
        row = [title]
        ratio = iter(ratios or [Cell(None)] * len(engines(results)))
        by_column = dict(zip(results["monitors"], cells))
        for c in engines(results):
            against = next(ratio)
            row += [by_column[c].text, _bound(by_column[c])]
            row.append(against.text if ratios else "")
            if c in TCG_GOALS:
                row.append(_bound(against))
        row += [by_column[c].text for c in peers(results)]
        lines.append("| " + " | ".join(row) + " |")
    lines += ["", f"Measured on {results['date'][:10]} on {host['cpu']} ({host['cpus']} CPUs, Linux "
              f"{host['kernel']}). Guest: {results['guest']}, 512 MB, one CPU but where two are "
              "named. Slowdown is the host's rate by the guest's for the same static program, "
              "against TCG the slowdown of QEMU TCG by Insula's; medians of "
              f"{results['rounds']} rounds. Versions: "
              + ", ".join(f"{column_name(m)} {v['version']}"
                          for m, v in results["monitors"].items()) + "."]
    return "\n".join(lines)


def _bound(cell):
    return f"{cell.goal} or {'more' if cell.at_least else 'less'}" if cell.goal else ""


def _aligned(rows):
    """Lines of a table whose first column is text and whose others are figures."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return ["  ".join(f"{text:<{w}}" if i == 0 else f"{text:>{w}}"
                      for i, (text, w) in enumerate(zip(row, widths))).rstrip() for row in rows]


def plain(results):
    """Everything, for a terminal."""
    columns, ours = list(results["monitors"]), engines(results)
    rows, when = detail(results), _tcg_when(results)
    head = ["slowdown against the host", *map(column_name, columns),
            *(f"{e}/TCG" for e in ours)]
    table, last = [head], None
    for group, title, cells in rows:
        if group != last:
            table += [[""] * len(head), [GROUPS[group]] + [""] * (len(head) - 1)]
            last = group
        table.append(["  " + title, *cells])
    lines = _aligned(table) if rows else []
    table = [["", *(column_name(c) + ("" if c in PEERS else " (goal)") for c in columns),
              *(f"{e}/TCG (goal)" for e in ours)]]
    for title, cells, ratios in summary(results):
        row = [title]
        for cell in [*cells, *(ratios or [Cell(None)] * len(ours))]:
            row.append(cell.text + (f" ({cell.goal})" if cell.goal else ""))
        table.append(row)
    lines += [""] * bool(lines) + _aligned(table)
    if when and ours:
        lines += ["", f"TCG is that {when}, from stored results."]
    missed = misses(results)
    lines += ["", "missed:"] + ["  " + line for line in missed] if missed else []
    return "\n".join(lines)
