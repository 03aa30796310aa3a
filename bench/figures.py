"""What the figures mean: names, groups and goals, and the tables made from results. A result file
is what bench/run writes; everything here only reads it."""

import math
import statistics

# Slowdown against the host that each group is to stay under.
GROUPS = {
    "integer": ("integer and interpreters", 15),
    "float": ("floating point and SIMD", 20),
    "memory": ("memory", 6),
    "code": ("generated code", None),
    "kernel": ("kernel work", 12),
}

WORKLOADS = {
    "core": "core loop", "sha256": "SHA-256 in C", "lua_fib": "Lua fib",
    "lua_strings": "Lua strings", "lua_nbody": "Lua nbody", "lua_spectral": "Lua spectral",
    "deflate": "zlib deflate", "inflate": "zlib inflate", "bzip2": "bzip2", "zstd": "zstd",
    "unzstd": "zstd decompress", "sqlite_insert": "SQLite insert",
    "sqlite_select": "SQLite select", "matmul": "double matmul", "nbody": "nbody in C",
    "x87": "x87", "avx2": "AVX2", "memcpy": "memcpy", "rep_movsq": "rep movsq",
    "read64m": "read 64 MB", "smc": "self-modifying code", "fresh_code": "fresh code",
    "getpid": "getpid", "clock_gettime": "clock_gettime", "page_fault": "page fault",
    "mprotect": "mprotect", "tmpfs_file": "tmpfs file", "signal": "signal",
    "segv": "SEGV barrier", "pipe": "pipe ping-pong", "futex": "futex ping-pong",
    "fork_exit": "fork + exit", "fork_exec": "fork + exec",
}

NAMES = {"insula": "Insula", "qemu": "QEMU TCG"}


def geomean(values):
    return math.exp(sum(map(math.log, values)) / len(values))


def slowdown(results, name, monitor):
    """Median over rounds of host rate by guest rate, each pair measured one after the other."""
    rounds = results["workloads"].get(name, {}).get(monitor, {}).get("slowdowns")
    return statistics.median(rounds) if rounds else None


def group_slowdowns(results, group, monitor):
    """(name, slowdown) of the group's workloads that ran."""
    pairs = ((name, slowdown(results, name, monitor))
             for name, w in results["workloads"].items() if w["group"] == group)
    return [(name, s) for name, s in pairs if s]


def group_geomean(results, group, monitor):
    values = [s for _, s in group_slowdowns(results, group, monitor)]
    return geomean(values) if values else None


def times(x):
    if x is None:
        return "-"
    return f"{x:.1f}x" if x < 9.95 else f"{x:.0f}x"


def _median(results, what, monitor):
    samples = results["monitors"].get(monitor, {}).get(what)
    return statistics.median(samples) if samples else None


def disk_share(results, monitor):
    s = slowdown(results, "disk_read", monitor)
    return 1 / s if s else None


# Rows that are not slowdowns: title, goal, value of (results, monitor), how to print it.
SINGLES = (
    ("process start to /init, 512 MB", "3 s or less",
     lambda r, m: _median(r, "boot_s", m), lambda v: f"{v:.2f} s"),
    ("the same, kernel unpacking itself", "",
     lambda r, m: _median(r, "boot_packed_s", m), lambda v: f"{v:.2f} s"),
    ("insula run -- true, from start to end", "",
     lambda r, m: _median(r, "command_s", m), lambda v: f"{v:.2f} s"),
    ("monitor's own memory, idle 512 MB guest", "20 MB or less",
     lambda r, m: _median(r, "own_memory_bytes", m), lambda v: f"{v / 1e6:.1f} MB"),
    ("virtio disk, 1 MiB O_DIRECT reads, of the host's rate", "60 % or more",
     disk_share, lambda v: f"{100 * v:.0f} %"),
)


def summary_rows(results):
    """Rows of title, goal and one cell for each monitor."""
    rows = []
    for group, (title, goal) in GROUPS.items():
        cells = [group_geomean(results, group, m) for m in results["monitors"]]
        if any(cells):
            rows.append((f"{title}, geomean slowdown", f"{goal}x or less" if goal else "",
                         [times(c) for c in cells]))
    for title, goal, value, show in SINGLES:
        cells = [value(results, m) for m in results["monitors"]]
        if any(cells):
            rows.append((title, goal, [show(c) if c else "-" for c in cells]))
    return rows


def detail_rows(results):
    """Rows of group, title and one slowdown for each monitor."""
    rows = []
    for group in GROUPS:
        for name, w in results["workloads"].items():
            if w["group"] != group:
                continue
            cells = [slowdown(results, name, m) for m in results["monitors"]]
            failed = [w.get(m, {}).get("failed") for m in results["monitors"]]
            rows.append((group, WORKLOADS.get(name, name),
                         ["failed" if f else times(c) for c, f in zip(cells, failed)]))
    return rows


def markdown(results):
    """The README's table."""
    monitors = [NAMES.get(m, m) for m in results["monitors"]]
    host = results["host"]
    lines = ["| | goal | " + " | ".join(monitors) + " |",
             "|---|---|" + "---|" * len(monitors)]
    lines += [f"| {title} | {goal} | " + " | ".join(cells) + " |"
              for title, goal, cells in summary_rows(results)]
    lines += ["", f"Measured on {results['date'][:10]} on {host['cpu']} ({host['cpus']} CPUs, Linux "
              f"{host['kernel']}). Guest: {results['guest']}, 512 MB, one CPU. Slowdown is the "
              "host's rate by the guest's for the same static program; medians of "
              f"{results['rounds']} rounds. Versions: "
              + ", ".join(f"{NAMES.get(m, m)} {v['version']}"
                          for m, v in results["monitors"].items()) + "."]
    return "\n".join(lines)


def plain(results):
    """Everything, for a terminal."""
    monitors = [NAMES.get(m, m) for m in results["monitors"]]
    lines = [f"{'':<32}" + "".join(f"{m:>12}" for m in monitors)]
    last = None
    for group, title, cells in detail_rows(results):
        if group != last:
            lines += ["", GROUPS[group][0]]
            last = group
        lines.append(f"  {title:<30}" + "".join(f"{c:>12}" for c in cells))
    lines += ["", f"{'':<54}{'goal':>14}" + "".join(f"{m:>12}" for m in monitors)]
    lines += [f"{title:<54}{goal:>14}" + "".join(f"{c:>12}" for c in cells)
              for title, goal, cells in summary_rows(results)]
    return "\n".join(lines)
