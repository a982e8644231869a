#!/bin/sh
# A Linux of 2011 to 2019 (4.11 to 5.2, built with XEN_TMEM and XEN_SELFBALLOONING, as Ubuntu 18.04's 4.15 is) as the real
# client of Ebb's transcendent memory: its own cleancache, frontswap, selfballooning and selfshrinking.
#
#   tests/by-hand/linux-tmem.sh linux-image-unsigned-4.15.0-213-generic_*.deb linux-modules-4.15.0-213-generic_*.deb
#
# Files on an ext4 and anonymous memory that exceeds what the domain has are written, pushed out, and read again. It fails
# if a file's sum or a page's content is wrong, if nothing went to or came back from either pool, if the balloon did
# not shrink the idle domain, if Linux printed a warning, or if Ebb's ledger does not add up.
#
# By hand, because such a kernel is in no current distribution, and an ext4 needs mke2fs. Wants: busybox (static),
# mke2fs, mkswap, cpio, dpkg-deb; Ebb built (make build).
set -eu

[ $# = 2 ] || { sed -n '2,13s/^# \{0,1\}//p' "$0"; exit 2; }
for program in busybox mke2fs mkswap cpio dpkg-deb; do
    command -v "$program" > /dev/null || { echo "$program is missing (Debian: busybox-static e2fsprogs util-linux cpio dpkg)"; exit 2; }
done
here=$(cd "$(dirname "$0")/../.." && pwd)
ebb=${EBB:-${CARGO_TARGET_DIR:-$here/target}/debug/ebb}
[ -x "$ebb" ] || { echo "$ebb is missing: make build"; exit 2; }

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
dpkg-deb -x "$1" "$work/package"
dpkg-deb -x "$2" "$work/package"
kernel=$(ls "$work"/package/boot/vmlinuz-*)

# The RAM disk: busybox, two modules, a file system, and the first page of a swap device, which is all of it that counts.
disk=$work/disk
mkdir -p "$disk/bin" "$disk/modules" "$disk/dev" "$disk/proc" "$disk/sys" "$disk/tmp" "$disk/mnt"
cp "$(command -v busybox)" "$disk/bin/busybox"
ln -s busybox "$disk/bin/sh"
for module in brd tmem; do
    cp "$(find "$work/package" -name "$module.ko")" "$disk/modules/"
done
truncate -s 52M "$work/ext4" && mke2fs -q -t ext4 -b 4096 -O ^has_journal -E lazy_itable_init=1 -F -m0 "$work/ext4"
gzip -1 < "$work/ext4" > "$disk/ext4.gz"
truncate -s 128M "$work/swap" && mkswap -q "$work/swap"
head -c 4096 "$work/swap" > "$disk/swap"

cat > "$disk/init" <<'INIT'
#!/bin/busybox sh
busybox mount -t devtmpfs dev /dev; busybox mount -t proc proc /proc; busybox mount -t sysfs sys /sys
exec > /dev/hvc0 2>&1
export PATH=/bin
busybox --install -s /bin
mount -t debugfs debugfs /sys/kernel/debug
insmod /modules/brd.ko rd_nr=2 rd_size=131072 && insmod /modules/tmem.ko || echo "check: FAILED modules"
zcat /ext4.gz > /dev/ram0; cat /swap > /dev/ram1
mount -t ext4 /dev/ram0 /mnt && swapon /dev/ram1 || echo "check: FAILED disks"
driver=/sys/devices/system/xen_memory/xen_memory0
show() {
    echo "figures: $1: $(grep -E 'MemTotal|SwapFree|Committed' /proc/meminfo | tr -s ' \n' ' ')"
    for pool in frontswap cleancache; do
        echo "figures: $1: $pool $(cd /sys/kernel/debug/$pool; for name in *; do echo -n "$name=$(cat $name) "; done)"
    done
}
figure() { cat /sys/kernel/debug/$1; }
expect() { if [ "$2" -gt "$3" ]; then echo "check: ok $1 ($2 > $3)"; else echo "check: FAILED $1 ($2, not > $3)"; fi; }
same() { if md5sum -c -s /tmp/sums; then echo "check: ok $1"; else echo "check: FAILED $1"; fi; }
# Fills $1 MiB with pages that differ, keeps them for $2 seconds, and looks at each again.
hold() {
    awk -v pages=$(($1 * 256)) -v seconds=$2 'BEGIN {
        srand(7)
        for (i = 0; i < 1024; i++) x = x sprintf("%c%c%c%c", 33 + rand() * 90, 33 + rand() * 90, 33 + rand() * 90, 33 + rand() * 90)
        for (i = 0; i < pages; i++) page[i] = i "-" x
        system("sleep " seconds)
        for (i = 0; i < pages; i++) if (page[i] != i "-" x) bad++
        print bad ? "check: FAILED " bad " pages of memory are wrong" : "check: ok memory is as it was"
    }'
}
show start
[ "$(cat $driver/selfballoon/selfballooning)$(cat $driver/selfballoon/frontswap_selfshrinking)" = 11 ] || echo "check: FAILED loops are off"
for number in 0 1 2 3 4 5 6 7 8 9; do dd if=/dev/urandom of=/mnt/$number bs=64k count=64 2> /dev/null; done
# Linux gives up what is in the pool with the inode, so the inodes are kept.
for number in 0 1 2 3 4 5 6 7 8 9; do sleep 100000 < /mnt/$number & done
sync; md5sum /mnt/[0-9] > /tmp/sums
hold 200 20 &
holder=$!
sleep 10; show pressure
expect "pages went to frontswap" $(figure frontswap/succ_stores) 5000
same "files under pressure"
wait $holder; show released
expect "pages came back from frontswap" $(figure frontswap/loads) 5000
before=$(cat $driver/info/current_kb)
sleep 40; show idle
expect "the balloon took KiB from the idle domain" $((before - $(cat $driver/info/current_kb))) 100000
same "files after the balloon"
expect "clean pages went to cleancache" $(figure cleancache/puts) 2000
expect "clean pages came back from cleancache" $(figure cleancache/succ_gets) 2000
killall sleep; umount /mnt; swapoff /dev/ram1; show end
[ "$(figure frontswap/loads)" -le "$(figure frontswap/succ_stores)" ] || echo "check: FAILED more loads than stores"
echo "check: done"
poweroff -f
INIT
chmod +x "$disk/init"
(cd "$disk" && find . | cpio -o -H newc --quiet | gzip -1) > "$work/initrd.gz"

# More than memory= may be used: what the pools keep counts against maxmem=.
cat > "$work/scenario.toml" <<SCENARIO
[host]
cpus = 2
memory = "700M"

[[domain]]
name = "linux"
kernel = "$kernel"
ramdisk = "$work/initrd.gz"
memory = "256M"
maxmem = "400M"
vcpus = 2
args = "console=hvc0"
SCENARIO
log=$work/log
"$ebb" run "$work/scenario.toml" --plain --out "$work/out" --timeout 900 2>&1 | tee "$log" | grep --line-buffered -E "figures:|check:|error" || true

status=0
wrong() { echo "FAILED: $1"; status=1; }
grep -q "check: done" "$log" || wrong "the domain did not come to its end"
! grep -q "check: FAILED" "$log" || wrong "checks in the domain, above"
# "vmemmap alloc failure" with its call trace is none: Linux goes on with small pages when it hotplugs under pressure.
! grep -m 3 -E "WARNING|BUG|soft lockup|stalls on|page allocation failure|Oops" "$log" || wrong "Linux complained"
grep -q "adds up" "$log" || wrong "the ledger does not add up"
if [ $status = 0 ]; then echo "passed"; else cp "$log" linux-tmem.log && echo "The log: linux-tmem.log"; fi
exit $status
