#: group = "A"
#: summary = "pipelines, exit status of each, pipefail, redirections of every kind"
#: with = ["/bin/busybox sh", "/bin/dash", "/bin/bash"]
cd /tmp
echo one two three | tr ' ' '\n' | sort | head -n 2
seq 1 1000 | grep 7 | wc -l
true | false; echo "status $?"
false | true; echo "status $?"
! true; echo "negated $?"
yes | head -n 3
seq 1 100000 | head -n 1
echo to stderr >&2
{ echo out; echo err >&2; } 2>&1 | sort
echo text >file; echo more >>file; cat <file
cat nothing 2>/dev/null || echo "no such file: $?"
exec 3>third; echo through three >&3; exec 3>&-; cat third
exec 4<file; read -r first <&4; read -r second <&4; exec 4<&-; echo "$first/$second"
echo x | while read -r line; do echo "read $line"; done
{ sleep 0.05; echo slow; } | cat
echo a | cat - file | tail -n 3
cat <<END | sed 's/^/> /'
here document with $((6 * 7)) and $(echo substitution) and \$escaped
END
cat <<'END'
quoted: $((6 * 7)) $(echo no)
END
cat <<-END
	tabs are stripped
	END
: >empty; [ -s empty ] || echo empty
echo 12345 >five; wc -c <five
(echo in a subshell; exit 9); echo "subshell $?"
noclobber_test() { set -C; echo again >file; }
(noclobber_test) 2>/dev/null || echo "noclobber $?"
seq 3 | { read -r a; read -r b; echo "$b$a"; }
i=0; while [ $i -lt 300 ]; do i=$((i + 1)); echo $i; done | tail -n 1
cat file file file | sort | uniq -c | sed 's/^ *//'
