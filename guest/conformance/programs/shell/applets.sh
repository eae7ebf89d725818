#: group = "B"
#: summary = "busybox's applets: text, files, archives, sums, find, awk, sed"
#: with = ["/bin/busybox sh"]
b() { /bin/busybox "$@"; }
cd /tmp; mkdir work; cd work
printf 'pear 3\napple 10\nfig 2\napple 1\n' >fruit
b sort fruit; b sort -k2n fruit; b sort -u -k1,1 fruit; b sort -r fruit
b sed -n 's/apple/APPLE/p' fruit; b sed '2d;s/[0-9]*$/<&>/' fruit; b sed -i 's/fig/date/' fruit; b cat fruit
b awk '{ s += $2; n[$1] += $2 } END { print s; print n["apple"] }' fruit
b awk 'BEGIN { for (i = 0; i < 5; i++) printf "%d:%s ", i, substr("abcdef", i + 1, 1); print length("xyz") }'
b awk -F: 'NR == 1 { print $1, $NF }' /etc/passwd
b grep -c apple fruit; b grep -v apple fruit; b grep -n pear fruit; b grep -E '^(pear|date)' fruit; b grep -q nothing fruit; echo $?
b cut -d' ' -f2 fruit | b paste -s -d+ ; b tr a-z A-Z <fruit | b head -n 1; b uniq -c fruit | b wc -l
b wc fruit; b tac fruit; b rev fruit; b nl fruit; b fold -w 4 fruit | b head -n 3; b expand fruit | b tail -n 1
mkdir -p tree/a/b tree/c; echo 1 >tree/a/one; echo 22 >tree/a/b/two; ln -s a/one tree/link; b chmod 640 tree/a/one
b find tree | b sort; b find tree -type f -size -2c; b find tree -name 't*' -exec echo found {} \; ; b find tree -type l
b du -a tree >/dev/null; b stat -c '%n %a %s %F' tree/a/one tree/link
b tar cf t.tar tree; b tar tf t.tar | b sort; mkdir out; b tar xf t.tar -C out; b cat out/tree/a/b/two; b ls -l out/tree/a/one | b cut -c1-10
b tar czf t.tgz tree && b tar tzf t.tgz | b wc -l
b seq 1 5000 >numbers; b md5sum numbers; b sha256sum numbers; b sha1sum numbers
b gzip -k numbers 2>/dev/null || b gzip -c numbers >numbers.gz; b zcat numbers.gz | b md5sum; b bzip2 -c numbers | b bzcat | b md5sum; b gunzip -t numbers.gz && echo good
b cp -r tree copy; b diff -r tree copy && echo same; echo 3 >>copy/a/one; b diff tree/a/one copy/a/one; b cmp tree/a/one copy/a/one
b dd if=/dev/zero of=zeros bs=1000 count=7 2>/dev/null; b wc -c zeros; b od -c fruit | b head -n 2; b hexdump -C fruit | b head -n 1; b xxd fruit | b head -n 1
b printf '%s\n' a b | b xargs -n 1 echo x; b expr 6 \* 7; b basename /a/b.c .c; b dirname /a/b.c; b realpath tree/../tree/a
b date -u -d @0 +%Y-%m-%dT%H:%M:%S; b cal 11 2026 | b head -n 1; b factor 1000000007; b env -i A=1 /bin/busybox env
b mkfifo fifo; (echo through fifo >fifo) & b cat fifo; wait; b mktemp -u XXXXXX | b wc -c; b touch -d '2020-01-02 03:04:05' t; b stat -c %Y t
b id -u; b whoami; b uname -s; b nproc; b sleep 0.01; b timeout 0.1 /bin/busybox sleep 5; echo $?; b usleep 1000; b true && ! b false && echo logic
b vi --help >/dev/null 2>&1; b test 1 -lt 2 && echo test; b split 2>/dev/null; b shuf -i 1-100 | b sort -n | b tail -n 1
b strings /bin/busybox | b grep -c BusyBox >/dev/null && echo strings; b base64 fruit; b base64 fruit | b base64 -d | b cmp - fruit && echo equal; b uuencode fruit x | b head -n 1
b rm -r tree copy out; b ls; b unlink t; b rmdir nothing 2>/dev/null; echo $?; echo '1+2*3' | b bc; b dc -e '2 3 + p' 2>/dev/null
