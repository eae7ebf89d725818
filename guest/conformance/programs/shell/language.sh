#: group = "A"
#: summary = "expansion, arithmetic, functions, case, loops, globbing, command substitution, eval, set -e"
#: with = ["/bin/busybox sh", "/bin/dash", "/bin/bash"]
x=hello; echo "${x}world ${#x} ${x#he} ${x%lo} ${x##*l} ${x%%l*} ${y:-default} ${y:=set} $y ${x:+alternative}"
echo $((1 + 2 * 3)) $((7 / 2)) $((7 % 3)) $((1 << 10)) $((5 > 3 && 2 > 1))
f() { echo "f got $# arguments: $1 $2"; local z=inner; echo "$z"; return 3; }
f a 'b c' d; echo "returned $?"
fact() { if [ "$1" -le 1 ]; then echo 1; else echo $(($1 * $(fact $(($1 - 1))))); fi; }
fact 12
case foo.tar.gz in *.zip) echo zip ;; *.tar.*) echo tar ;; *) echo other ;; esac
for w in a "b c" d; do printf '<%s>' "$w"; done; echo
set -- one 'two three' four; echo "$# $*"; for a; do echo "[$a]"; done; shift; echo "$1"
IFS=:; p='a:b::c'; for part in $p; do printf '(%s)' "$part"; done; echo; unset IFS
mkdir -p /tmp/glob/sub; cd /tmp/glob; touch a.txt b.txt c.log .hidden 'with space.txt' sub/d.txt
echo *.txt; echo ?.txt; echo [ab]*; echo [!ab]*.log; echo */*; echo *.none; echo .h*; echo "*"
v=$(printf 'trailing newlines\n\n\n'); echo "[$v]"
echo "$(echo "nested $(echo "deeper $(echo deepest)")")"
echo `echo backticks \`echo nested\``
eval 'echo eval $((2 + 3))'
set -e; (false; echo not reached) || echo "set -e $?"; set +e
[ -d sub ] && [ -f a.txt ] && [ ! -e none ] && [ 3 -gt 2 ] && [ a != b ] && [ -n x ] && [ -z '' ] && echo tests
test -x /bin/sh && test -r a.txt && echo access
while :; do i=$((i + 1)); [ $i -eq 3 ] && continue; [ $i -gt 5 ] && break; printf '%s ' $i; done; echo
until [ ${n:-0} -ge 3 ]; do n=$((${n:-0} + 1)); done; echo $n
printf '%5d|%-5s|%05.1f|%x|%o|%c\n' 42 ab 3.14159 255 8 z
echo "line one
line two" | while IFS= read -r l; do echo "-$l-"; done
unset nothing; echo "${nothing-unset}" "${nothing+set}"
(: "${nothing:?is missing}") 2>/dev/null; echo "missing $?"
readonly r=1; (r=2) 2>/dev/null || echo readonly
echo ~ $HOME
export E=exported; sh -c 'echo $E'; E2=once sh -c 'echo $E2'; echo "[$E2]"
alias ll=ls 2>/dev/null; type cd >/dev/null && command -v sh >/dev/null && echo commands
getopts_test() { while getopts ab:c o; do echo "$o $OPTARG"; done; echo $OPTIND; }; getopts_test -a -b val -c rest
cd /; cd /tmp; cd - >/dev/null; pwd; cd ..; pwd
umask; umask 077; umask; ulimit -s
no-such-command 2>/dev/null; echo "not found $?"
/tmp 2>/dev/null; echo "directory $?"
echo done
