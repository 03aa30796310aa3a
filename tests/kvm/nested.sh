# Runs as root in the nested host; see the script nested. $1: only parts whose names contain this.
export PATH=/nested:$PATH HOME=/root XDG_RUNTIME_DIR=/run
for m in irqbypass kvm kvm-amd; do insmod /nested/$m.ko || echo "FAIL insmod $m"; done
only=$1

part() { # part NAME: is it wanted?
	case $1 in *$only*) name=$1; began=$(cut -d. -f1 /proc/uptime); return 0 ;; esac
	return 1
}
ok() { echo "ok $name ($(($(cut -d. -f1 /proc/uptime) - began)) s)"; }
bad() { echo "FAIL $name: $*"; }
same() { # same WANTED GOT
	if [ "$1" = "$2" ]; then ok; else bad "wanted '$1', got '$2'"; fi
}

if part doctor; then
	insula doctor --json >/tmp/doctor
	same good "$(sed -n '/"kvm"/,/}/s/.*"verdict": "\([a-z]*\)".*/\1/p' /tmp/doctor)"
fi

if part command; then
	same "6.1 0" "$(insula run --engine kvm --stats -- uname -r 2>/tmp/err | cut -c1-3) $?"
	tail -20 /tmp/err
fi
