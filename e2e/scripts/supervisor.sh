#!/bin/bash
# Holds the namespaces of one private node, and removes everything it leaves behind.
#
# usage: supervisor.sh STATE ROOT V2 INIT CGROUP-DIR...
#   STATE, ROOT  directories removed at the end
#   V2           on a cgroup v2 machine the (single) cgroup directory, else empty
#   INIT         the path of init.sh, process 1 inside
# Standard input is a pipe that only the owner holds open: when the owner ends, however it ends, init sees end of file and
# exits, and the kernel kills every process of its PID namespace. Mounts, interfaces and rules go with their namespaces.
set -u
state=$1 root=$2 v2=$3 init=$4
shift 4

(
	for dir in "$@"; do
		echo "$BASHPID" >"$dir/cgroup.procs" || exit 1
	done
	# Two steps: the cgroup namespace's root is the cgroup we are in now; on v2 no process may stay in it, or its
	# controllers could not be enabled for its children.
	# shellcheck disable=SC2016
	exec unshare --cgroup bash -c '
		if [ -n "$1" ]; then
			mkdir "$1/host" && echo $$ >"$1/host/cgroup.procs" || exit 1
		fi
		shift
		exec unshare --net --mount --pid --uts --ipc --fork --kill-child --propagation slave bash "$@"
	' join "$v2" "$init" "$state" "$v2"
)
status=$?

for dir in "$@"; do
	for _ in $(seq 100); do
		find "$dir" -depth -type d -exec rmdir {} + 2>/dev/null
		[ -d "$dir" ] || break
		sleep 0.05
	done
done
if [ -z "${SEUSS_KEEP:-}" ]; then
	rm -rf --one-file-system "$state" "$root"
	rmdir --ignore-fail-on-non-empty "$(dirname "$state")" "$(dirname "$root")" 2>/dev/null
fi
exit "$status"
