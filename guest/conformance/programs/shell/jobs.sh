#: group = "A"
#: summary = "background jobs, wait, $!, kill, exit statuses, trap of signals and EXIT"
#: with = ["/bin/busybox sh", "/bin/dash", "/bin/bash"]
#: status = 6
sleep 0.05 & wait; echo "waited $?"
(exit 3) & wait $!; echo "status $?"
(sleep 0.1; exit 4) & a=$!
(exit 5) & b=$!
wait $a; echo "a $?"
wait $b; echo "b $?"
sleep 100 & kill $!; wait $! 2>/dev/null; echo "terminated $?"
sleep 100 & kill -9 $!; wait $! 2>/dev/null; echo "killed $?"
kill -0 $$ && echo alive
kill -0 $! 2>/dev/null || echo gone
{ for i in 1 2 3 4 5; do (sleep 0.$i; echo "job $i") & done; wait; } | sort
trap 'echo caught USR1' USR1
kill -USR1 $$
echo after
trap 'echo caught TERM; exit 7' TERM
(trap 'echo inner' USR1; echo "in subshell"; exit 0)
sh -c 'trap "echo child TERM; exit 3" TERM; kill -TERM $$; sleep 1'; echo "child $?"
sh -c 'kill -TERM $$'; echo "default TERM $?"
sh -c 'kill -SEGV $$' 2>/dev/null; echo "SEGV $?"
sh -c 'trap "" TERM; kill -TERM $$; echo ignored'
sh -c 'trap "echo bye" EXIT; echo leaving; exit 2'; echo "exit $?"
wait 99999 2>/dev/null; echo "no child $?"
(sleep 0.2; kill -USR1 $$) &
sleep 0.4
wait
trap - USR1
trap 'echo at exit' EXIT
exit 6
