#: group = "B"
#: summary = "five hundred forks, deep subshells, big pipelines, long command lines"
#: with = ["/bin/busybox sh", "/bin/dash", "/bin/bash"]
#: timeout = 180
cd /tmp
i=0; while [ $i -lt 300 ]; do i=$((i + 1)); /bin/true || echo failed; done; echo $i
i=0; s=0; while [ $i -lt 100 ]; do i=$((i + 1)); s=$((s + $(echo $i))); done; echo $s
( ( ( ( ( ( ( ( ( ( echo deep ) ) ) ) ) ) ) ) ) )
seq 1 50000 | cat | cat | cat | cat | cat | cat | cat | tail -n 1
seq 1 20000 | xargs echo | wc -w
seq 1 200 | xargs -n 1 echo | tail -n 1
head -c 3000000 /dev/zero | tr '\0' x | wc -c
for i in 1 2 3 4 5 6 7 8; do (j=0; while [ $j -lt 2000 ]; do j=$((j + 1)); done; echo $j) & done | sort | uniq -c | sed 's/^ *//'
wait
a=$(seq 1 10000); echo ${#a}
mkdir many; i=0; while [ $i -lt 500 ]; do i=$((i + 1)); : >many/$i; done; ls many | wc -l; rm -r many; ls
