# shellcheck shell=sh disable=SC2034,SC2154,SC2164
# Run in the judges' tree by prepare: builds what the judges run. A program that this compiler cannot build is
# left out and named in /opt/judges/left_out.
cd /opt/judges || exit 1
: >left_out

# try OUTPUT COMMAND...
try() {
	output=$1
	shift
	"$@" -o "$output" 2>"$output.err" || { echo "$output" >>left_out; }
}

# The kernel's own tests, 64-bit and 32-bit; as its Makefile says.
mkdir -p selftests
cd linux/tools/testing/selftests/x86 || exit 1
both="single_step_syscall sysret_ss_attrs syscall_nt test_mremap_vdso check_initial_reg_state sigreturn iopl ioperm
	test_vsyscall mov_ss_trap sigtrap_loop syscall_arg_fault fsgsbase_restore sigaltstack ldt_gdt ptrace_syscall"
only32="entry_from_vm86 test_syscall_vdso unwind_vdso test_FCMOV test_FCOMI test_FISTTP vdso_restorer"
only64="fsgsbase sysret_rip syscall_numbering corrupt_xstate_header"
for bits in 64 32; do
	eval "names=\"$both \$only$bits\""
	for name in $names; do
		more=
		case ${name}_$bits in
		sysret_ss_attrs_64) more=thunks.S ;;
		ptrace_syscall_32) more=raw_syscall_helper_32.S ;;
		test_syscall_vdso_32) more=thunks_32.S ;;
		check_initial_reg_state_*) more="-Wl,-ereal_start -static" ;;
		esac
		# shellcheck disable=SC2086
		try /opt/judges/selftests/${name}_$bits gcc -m$bits -O2 -std=gnu99 -pthread -no-pie -w -DCAN_BUILD_32 \
			-DCAN_BUILD_64 "$name.c" $more -lrt -ldl -lm
	done
done
cd /opt/judges || exit 1

# Valgrind's instruction tests, run bare.
mkdir -p instructions
: >valgrind/config.h
for bits in 64 32; do
	arch=$([ $bits = 64 ] && echo amd64 || echo x86)
	cd "valgrind/none/tests/$arch" || exit 1
	for def in *.def; do
		perl gen_insn_test.pl <"$def" >"${def%.def}.c"
	done
	for test in *.vgtest; do
		name=$(basename "$(sed -n 's/^prog: *//p' "$test")")
		[ -e "$name.c" ] || continue
		try "/opt/judges/instructions/${name}_$bits" gcc -m$bits -O -g -w -fno-strict-aliasing -no-pie \
			-DVGO_linux=1 "-DVGA_$arch=1" "-DVGP_${arch}_linux=1" -DHAVE_AS_AMD64_FXSAVE64=1 \
			-I../../../include -I../../.. -I. "$name.c" -lm -lpthread
	done
	cd /opt/judges || exit 1
done
rm -rf valgrind linux

# zlib's tests; sqlite's, whose driver is a Tcl shell with the library in it.
(cd zlib && ./configure --static && make -j2 example minigzip CFLAGS='-O2 -D_LARGEFILE64_SOURCE=1') || exit 1
(cd zlib && gcc -O2 -w -o infcover test/infcover.c libz.a -I.) || exit 1
(
	cd sqlite3 && ./configure --disable-amalgamation --with-tcl=/usr/lib/tcl8.6 CFLAGS='-O0 -w' &&
		make -j2 testfixture
) || exit 1
