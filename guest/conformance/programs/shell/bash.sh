#: group = "D"
#: summary = "bash's own: arrays, process substitution, coproc, read -t, job control words, regex, traps"
#: with = ["/bin/bash"]
a=(one two 'three four'); a+=(five); echo "${#a[@]} ${a[2]} ${a[*]:1:2} ${!a[@]}"
declare -A m=([x]=1 [y]=2); m[z]=3; for k in x y z; do echo -n "$k=${m[$k]} "; done; echo
diff <(seq 3) <(seq 2 4); cat <(echo from substitution); tee >(cat >/tmp/tee-out) <<<into >/dev/null; sleep 0.5; cat /tmp/tee-out
[[ abc123 =~ ^([a-z]+)([0-9]+)$ ]] && echo "${BASH_REMATCH[1]} ${BASH_REMATCH[2]}"
s=Hello; echo "${s,,} ${s^^} ${s/l/L} ${s//l/L} ${s:1:3} ${s: -2}"
coproc cat; echo coproc >&"${COPROC[1]}"; read -r line <&"${COPROC[0]}"; echo "$line"; exec {COPROC[1]}>&-; wait
read -t 0.1 nothing </dev/fd/0; echo "read $?"; read -t 0.1 -r x < <(sleep 1); echo "timed out $(($? > 128))"
for ((i = 0; i < 3; i++)); do echo -n "$i "; done; echo; echo {1..5} {a..e} x{1,2}y
f() { trap 'echo return' RETURN; echo in f; }; f
set -o pipefail; false | true; echo "pipefail $?"; echo "${PIPESTATUS[@]}"
mapfile -t lines < <(seq 3); echo "${lines[1]}"; printf -v v '%03d' 7; echo "$v"
sleep 0.1 & sleep 0.2 & jobs -p | wc -l; wait -n; echo "first $?"; wait
(exit 12) & wait -n; echo "wait -n $?"
trap 'echo ERR' ERR; false; trap - ERR
exec 5<>/tmp/both; echo both >&5; exec 5>&-; cat /tmp/both; echo x >&7 2>/dev/null; echo "bad fd $?"
echo "$((16#ff)) $((2#101)) $((2 ** 16))"; echo $SHLVL $BASHPID | wc -w; ( echo $BASH_SUBSHELL )
ulimit -n 50; for i in {10..60}; do eval "exec $i</dev/null" 2>/dev/null || { echo "until the limit"; break; }; done
