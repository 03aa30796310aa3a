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

mem="--mem 128M"

if part command; then
	same "6.1 0" "$(insula run --engine kvm -- uname -r 2>/tmp/err | cut -c1-3) $?"
fi

if part auto; then
	insula run $mem -d --name auto >/dev/null 2>/tmp/err
	same kvm "$(insula ps | sed -n 's/^auto .*\(kvm\).*/\1/p')"
	insula kill auto
fi

if part devices; then
	dd if=/dev/urandom of=/tmp/disk bs=64k count=16 2>/dev/null
	sum=$(md5sum </tmp/disk | cut -c1-32)
	got=$(insula run --engine kvm --cpus 2 --disk /tmp/disk -- sh -c 'nproc; md5sum </dev/vda | cut -c1-32
		echo written | dd of=/dev/vda conv=notrunc 2>/dev/null; sync; dd if=/dev/hwrng bs=16 count=1 2>/dev/null | wc -c' \
		2>/tmp/err | tr '\n' ' ')
	same "2 $sum 16 written" "$got$(head -c7 /tmp/disk)"
fi

# It counts; the time that passes in a snapshot is no count.
count='echo up; i=0; while [ $i -lt 60 ]; do i=$((i+1)); sleep 0.3; done; echo done $i'

if part switch; then
	insula run --engine kvm --cpus 2 $mem --name b -- sh -c "$count" >/tmp/out 2>/tmp/err &
	while ! grep -q up /tmp/out; do sleep 1; done
	insula switch b --engine translate || cat /tmp/err
	sleep 2
	insula switch b --engine kvm
	insula snapshot b /tmp/snap
	wait $!
	same "up done 60" "$(echo $(cat /tmp/out))"
	# To the host outside, where it goes on under translate, and back.
	size=$(wc -c </tmp/snap)
	cat /tmp/snap >/dev/vda
	sync
	echo "SNAPSHOT $size"
	name=restore-kvm
	same "done 60" "$(insula restore /tmp/snap --engine kvm 2>/tmp/err | tr -d '\r')"
	name=carried-back
	read size
	head -c "$size" /dev/vdb >/tmp/back
	same "done 60" "$(insula restore /tmp/back --engine kvm 2>/tmp/err | tr -d '\r')"
	rm /tmp/back
	name=restore-translate
	same "done 60" "$(insula restore /tmp/snap --engine translate 2>/tmp/err | tr -d '\r')"
fi
cat /tmp/err
