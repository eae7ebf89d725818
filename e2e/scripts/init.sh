#!/bin/bash
# Process 1 of a private node's namespaces: sets up mounts and loopback, says "ready PID", then waits for end of file.
#
# usage: init.sh STATE V2       (SEUSS_CGROUPS: the v1 hierarchies, one controller list per word)
set -eu
state=$1 v2=$2

# Before /proc is ours: the host's view of this process, read by the shell itself and not by a child.
read -r pid _ </proc/self/stat

# A /run of its own: containerd's sockets and FIFOs below /run/containerd vanish with the namespace.
staging=$state/run
mkdir "$staging"
mount -n -t tmpfs -o mode=755 tmpfs "$staging"
for keep in "$state" /run/systemd/resolve; do
	if [ -d "$keep" ]; then
		mkdir -p "$staging/${keep#/run/}"
		mount -n --bind "$keep" "$staging/${keep#/run/}"
	fi
done
mount -n --move "$staging" /run

# Likewise what CNI remembers.
mkdir -p /var/lib/cni
mount -n -t tmpfs -o mode=755 tmpfs /var/lib/cni

mount -n -t proc proc /proc

# The cgroup namespace makes our own cgroups the root of these.
umount -n --recursive --lazy /sys/fs/cgroup
if [ -n "$v2" ]; then
	mount -n -t cgroup2 cgroup2 /sys/fs/cgroup
	for controller in $(cat /sys/fs/cgroup/cgroup.controllers); do
		echo "+$controller" >/sys/fs/cgroup/cgroup.subtree_control || :
	done
else
	mount -n -t tmpfs -o mode=755 tmpfs /sys/fs/cgroup
	for controllers in $SEUSS_CGROUPS; do
		case $controllers in
		name=*) dir=${controllers#name=} options=none,$controllers ;;
		*) dir=$controllers options=$controllers ;;
		esac
		mkdir "/sys/fs/cgroup/$dir"
		mount -n -t cgroup -o "$options" cgroup "/sys/fs/cgroup/$dir"
		if [ "$dir" != "${dir#*,}" ]; then
			for one in ${dir//,/ }; do ln -s "$dir" "/sys/fs/cgroup/$one"; done
		fi
	done
fi

mount -n --make-rshared /
ip link set lo up
echo 1 >/proc/sys/net/ipv4/ip_forward

echo "ready $pid"
exec >/dev/null
# The shell reaps the orphans it inherits as process 1.
while read -r _; do :; done
