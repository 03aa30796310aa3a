"""The judges: what runs in the guest, and what it must say."""
import dataclasses
import re
from dataclasses import dataclass

from machine import expect

MEM = "--mem 1536M"
ONE, FOUR = f"--cpus 1 {MEM}", f"--cpus 4 {MEM}"
# What shakes the translator itself: everything translated when it is first met, a cache that is always full.
HARD = [f"--cpus 1 {MEM} --hot 1", f"--cpus 4 {MEM} --hot 20 --code-cache 1M"]


@dataclass
class Judgement:
    status: int
    out: str
    err: str


@dataclass
class Judge:
    name: str
    what: str
    short: str  # a script for sh
    long: str = ""  # with --full instead
    compared: bool = True  # its output is the host's
    loud: bool = False  # its programs fault on purpose, of which the kernel's log tells
    usual: list = dataclasses.field(default_factory=lambda: [ONE, FOUR])
    check: object = lambda judgement: None

    def script(self, full):
        return self.long if full and self.long else self.short

    def options(self, full):
        return self.usual + (HARD if full else [])


STRESSORS = ("cpu vm fork mmap context signal futex sigsegv sigfpe switch mutex pipe clone vfork memcpy qsort mremap sigq "
             "pthread bad-altstack icache tlb-shootdown atomic matrix branch funccall longjmp membarrier munmap shm nop vecmath "
             "mprotect sigpending sigsuspend poll sem eventfd zlib crypt hash str wcs bsearch radixsort fp-error cache "
             "x86syscall schedpolicy ptrace kill exec far-branch misaligned opcode priv-instr regs rseq sigtrap "
             "vecshuf vecwide vecfp dekker peterson goto dynlib stackmmap lockbus mcontend usersyscall")


def stress(seconds, workers):
    """Each by itself, then what the engine has most to do with all at once. Status 3 is: not possible here, as on
    a kernel without the call; every other than 0 is a failure, among them that verification failed."""
    return f"""
cd /tmp
check() {{
	stress-ng --verify --vm-bytes 64M --mmap-bytes 32M --timeout {seconds}s --temp-path /tmp "$@" >out 2>&1
	status=$?
	[ $status -eq 0 ] || [ $status -eq 3 ] || {{ echo "$* status $status"; cat out; failed=1; }}
	if grep -q 'not implemented\|unrecognized option' out; then echo "$* is not there"; failed=1; fi
}}
for s in {STRESSORS}; do check --$s {workers}; done
check --cpu 1 --vm 1 --fork 1 --mmap 1 --context 1 --signal 1 --futex 1 --icache 1 --tlb-shootdown 1 --switch 1
exit ${{failed:-0}}"""


SOAK = """
cd /tmp; end=$(($(date +%s) + {seconds}))
while [ $(date +%s) -lt $end ]; do
	stress-ng --verify --cpu 1 --vm 1 --fork 1 --mmap 1 --context 1 --signal 1 --futex 1 --vm-bytes 96M \\
		--mmap-bytes 64M --timeout 20s --quiet || exit 1
	luajit /judges/luajit.lua >out.new || exit 1
	[ ! -e out ] || cmp out out.new || exit 1
	mv out.new out
done
echo soaked
"""

JAVA = "java -Xmx256m -Xss512k {} -cp /tmp Mixed {}"

SELFTESTS = r"""
cd /opt/judges/selftests
for t in *_64 *_32; do
	timeout 900 ./$t >/tmp/out 2>&1 </dev/null
	echo "$t status $?"
	sed 's/^/	/' /tmp/out
done
"""

INSTRUCTIONS = r"""
cd /opt/judges/instructions
for t in *_64 *_32; do
	case $t in
	# Random numbers, the host's own CPUID, addresses, or a signal that ends it in time only.
	rdrand*|rdseed*|cpuid*|nan80and64*|bug133694*) continue ;;
	esac
	[ -x $t ] || continue
	timeout 900 ./$t >/tmp/out 2>&1 </dev/null
	echo "$t status $? $(md5sum </tmp/out)"
done
"""


SQLITE = """
cd /tmp && export LD_LIBRARY_PATH=/opt/judges/sqlite3/.libs fixture=/opt/judges/sqlite3/.libs/testfixture
"""


def selftests_check(judgement):
    """Every program ends by itself and well, or says that it cannot run here."""
    failed = []
    for name, status, text in re.findall(r"^(\w+) status (\d+)\n((?:\t.*\n)*)", judgement.out, re.M):
        if status not in ("0", "4") or "[FAIL]" in text:
            failed.append(f"{name} status {status}\n{text[-1500:]}")
    expect("sigreturn_64 status" in judgement.out, judgement.out[-2000:])
    expect(not failed, "\n".join(failed))


JUDGES = [
    Judge("luajit", "LuaJIT: compiled loops with side exits, errors, C data and callbacks; Lua 5.4's interpreter too",
          "luajit /judges/mixed.lua && luajit /judges/luajit.lua && lua5.4 /judges/mixed.lua",
          "luajit /judges/mixed.lua 5 && luajit /judges/luajit.lua 5 && lua5.4 /judges/mixed.lua 2 && "
          "luajit -O1 /judges/luajit.lua && luajit -Ohotloop=2 /judges/mixed.lua"),
    Judge("node", "V8: deoptimisation, exceptions, garbage collection, WebAssembly's traps, worker threads",
          "node /judges/mixed.js",
          "node /judges/mixed.js 4 && node --jitless --no-expose-wasm /judges/mixed.js 2>/dev/null | head -8 && "
          "node --stress-compaction --stress-incremental-marking /judges/mixed.js && node --always-opt /judges/mixed.js"),
    Judge("java", "OpenJDK: javac, implicit null checks, safepoints, collectors, SIMD, monitors and queues between threads",
          f"cd /tmp && javac -d /tmp /judges/Mixed.java && {JAVA.format('', '')}",
          "cd /tmp && javac -d /tmp /judges/Mixed.java && md5sum *.class && " + " && ".join(
              JAVA.format(*words) for words in [("", 3), ("-XX:+UseSerialGC", ""), ("-XX:+UseParallelGC", ""),
                                                ("-XX:+UseZGC -XX:ParallelGCThreads=2", ""), ("-XX:+UseShenandoahGC", ""),
                                                ("-XX:TieredStopAtLevel=1", ""), ("-XX:-TieredCompilation", ""),
                                                ("-Xint", ""), ("-XX:+DeoptimizeALot", "")])),
    Judge("gcc", "gcc builds lua5.4 from Debian's source; every object and program has the host's bytes",
          "cp -r /opt/judges/lua5.4/src /tmp/lua && cd /tmp/lua && make -s -j4 CC='gcc -O2 -w' lapi.o lvm.o lstrlib.o && "
          "sha256sum *.o",
          "cp -r /opt/judges/lua5.4/src /tmp/lua && cd /tmp/lua && make -s -j4 linux CC='gcc -O2 -w' && sha256sum *.o lua luac && "
          "./lua /judges/mixed.lua"),
    Judge("stress", "stress-ng --verify: cpu, vm, fork, mmap, context, signal, futex and their like",
          stress(1, 2), stress(10, 4), compared=False, loud=True),
    Judge("openssl", "digests, ciphers and signatures equal the host's; openssl speed with its checks", r"""
cd /tmp && file=/usr/lib/x86_64-linux-gnu/libcrypto.so.3 && key=/opt/judges/zlib/README
for d in md5 sha1 sha256 sha512 sha3-512 blake2b512 blake2s256 ripemd160 sm3 shake256; do openssl dgst -$d $file; done
for c in aes-128-cbc aes-256-ctr aes-192-cfb aes-256-ofb camellia-256-cbc chacha20 aria-256-ctr sm4-cbc des-ede3-cbc; do
	openssl enc -$c -pbkdf2 -nosalt -pass pass:insula -in $file -out x && md5sum x &&
	openssl enc -d -$c -pbkdf2 -nosalt -pass pass:insula -in x | cmp - $file || echo wrong $c
done
for curve in P-256 P-384 P-521; do
	openssl ecparam -name $curve -genkey -noout -out k && openssl ec -in k -pubout -out p 2>/dev/null &&
	openssl dgst -sha256 -sign k -out s $key && openssl dgst -sha256 -verify p -signature s $key
done
openssl genrsa -out k 2048 2>/dev/null && openssl rsa -in k -pubout -out p 2>/dev/null && openssl rsa -in k -check -noout 2>&1
openssl dgst -sha256 -sign k -out s $key && openssl dgst -sha256 -verify p -signature s $key
openssl prime -hex 1FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF
openssl speed -seconds 1 -bytes 4096 aes-128-cbc sha256 rsa1024 ecdsap256 ecdhx25519 >out 2>&1; echo speed $?; grep -ci error out
"""),
    Judge("sqlite", "sqlite3's own tests, and a database made, checked and dumped", SQLITE + r"""
for t in select1 expr index join trigger1 where fts3aa func cast printf; do
	$fixture /opt/judges/sqlite3/test/$t.test 2>&1 | grep -aE 'errors out of|^!|Expected|Got' |
		sed "s/^/$t: /; s/ on .*//"
done
sqlite3 d <<-END
	create table t (a integer primary key, b text, c real, d blob); create index i on t (b, c);
	with recursive n(x) as (select 1 union all select x + 1 from n where x < 20000)
		insert into t select x, printf('%x-%d', x * 7919, x % 13), x / 7.0, zeroblob(x % 40) from n;
	update t set c = c * 1.5 where a % 3 = 0; delete from t where a % 7 = 0; pragma integrity_check;
	select count(*), sum(c), max(b), total(length(d)) from t group by a % 5; vacuum; pragma integrity_check;
END
sqlite3 d .dump | sha256sum
""", SQLITE + r"""
for t in /opt/judges/sqlite3/test/[a-m]*.test; do
	n=${t##*/}
	case $n in all.test|*fault*|*malloc*|*ioerr*|*crash*|*thread*|*big*|*fuzz*|*perm*|*mem*|*multi*|*lock*|*bench*) continue ;; esac
	timeout 900 $fixture $t 2>&1 | grep -aE 'errors out of|^!|Expected|Got' | sed "s/^/$n: /; s/ on .*//"
	rm -rf /tmp/test.db* /tmp/testdir
done
"""),
    Judge("zlib", "zlib's own tests, and what gzip, bzip2, xz and zstd make of a file", r"""
cd /tmp && /opt/judges/zlib/example f.gz | grep -v version && /opt/judges/zlib/infcover 2>&1 | md5sum
head -c 3000000 /usr/lib/x86_64-linux-gnu/libcrypto.so.3 >x
for c in '/opt/judges/zlib/minigzip -9' 'gzip -n6' 'bzip2 -9' 'xz -3 -T2' 'zstd -q -9 -T2'; do
	$c <x >y && md5sum y && ${c%% *} -d <y | cmp - x || echo wrong: $c
done
"""),
    Judge("scripts", "perl, awk, sort, sed, bc of a shell: what process start, pipes and files come to", r"""
cd /tmp && seq 1 60000 | awk '{ s = (s * 31 + $1) % 1000003; print s, $1 ^ 0.5 }' >a && sort -k1,1n -k2 a | md5sum
perl -e 'for (1..60000) { $h{$_ * 7919 % 10007} .= chr(65 + $_ % 26) } print join(",", map { "$_$h{$_}" } sort keys %h)' | md5sum
for i in $(seq 150); do echo $(( i * i )) | sed 's/1/x/g' | tr x y; done | sort | uniq -c | md5sum
find /usr/lib -name '*.so*' | sort | xargs ls -l --time-style=+%s | awk '{print $5, $7}' | md5sum
"""),
    Judge("instructions", "Valgrind's tests of instructions, amd64 and x86, run bare", INSTRUCTIONS, loud=True, usual=[ONE]),
    Judge("selftests", "the kernel's own selftests/x86, 64-bit and 32-bit", SELFTESTS, compared=False, loud=True,
          check=selftests_check),
]
