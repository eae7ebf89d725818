#: group = "B"
#: summary = "coreutils: the same jobs through dynamic programs, many of them with threads or odd system calls"
#: with = ["/bin/bash"]
set -o pipefail
cd /tmp; mkdir work; cd work
seq 1 2000 | shuf --random-source=<(yes) | sort -n --parallel=4 | md5sum
seq 1 1000000 | sort -rn | head -n 2
printf 'b 2\na 1\n' | sort -k2 | tee copy | tac; cat copy; paste copy copy; join <(sort copy) <(sort copy)
cut -c1 copy; nl copy; od -An -tx1 copy; fmt -w 10 <<<'several words here to be wrapped'; fold -w 3 <<<abcdefgh; expand <<<$'a\tb'; pr -t -2 <(seq 6) | cat -A
head -c 10 /dev/zero | tr '\0' z; echo; tr -d aeiou <<<'no vowels here'; uniq -c <<<$'a\na\nb' | sed 's/^ *//'; wc -lwc copy; comm <(seq 3) <(seq 2 4)
dd if=/dev/zero of=z bs=4096 count=3 status=none; stat -c '%s %a %F %h' z; truncate -s 100K sparse; stat -c %s sparse; cp --sparse=always sparse s2; cmp sparse s2 && echo same
cp -a z z2; ln z hard; ln -s z soft; stat -c '%h %N' z soft; readlink -f soft; realpath --relative-to=/ z; mv -n z2 moved; ls; rm -v hard
mkdir -p -m 750 d/e/f; rmdir -p --ignore-fail-on-non-empty d/e/f; ls -d d 2>&1; install -m 600 copy installed; stat -c %a installed; touch -d @1000000000 t; stat -c %Y t; date -u -r t +%F
ls -l --time-style=+%s t | awk '{ print $1, $5, $6 }'; ls -a; ls -1r; ls nothing; echo $?; chmod -v u+x t; chown 5:6 t; stat -c %u:%g t; chmod --reference=copy t
timeout 0.2 sleep 10; echo "timeout $?"; { timeout -s KILL 0.2 sleep 10; } 2>/dev/null; echo "killed $?"; nice -n 3 nice; nohup true 2>/dev/null; env -i /usr/bin/env; env A=b printenv A; stdbuf -oL echo buffered
seq 5 -2 1 | paste -sd,; factor 600851475143; expr 3 + 4; numfmt --to=iec 1048576; basenc --base64url <<<'??>>'; b2sum <<<x | cut -c1-16; sha512sum <<<x | cut -c1-16; cksum <<<x; sum <<<x
split -n 3 --additional-suffix=.p <(seq 100) q 2>/dev/null || { seq 100 >hundred; split -n l/3 hundred q; }; cat q* | md5sum; csplit -s <(seq 10) 5; cat xx01 | head -n 1; tsort <<<'a b b c'
df / | wc -l; du -s --apparent-size copy | cut -f1; sync; sync copy; nproc; uname -sm; whoami; id -un; id -G; groups; hostid | wc -c; tty; echo "tty $?"; pwd -P; logname 2>/dev/null; who | wc -l
test -e copy -a ! -d copy && [ copy -ef copy ] && [ copy -nt t ] && echo tests; mktemp -d x.XXXX | wc -c; mkfifo p; (echo fifo >p &); cat p; tail -n 2 -q copy; tail -c 3 copy
(for i in 1 2 3; do echo line $i >>grow; sleep 0.1; done) & sleep 0.02; tail -n +1 -f --pid=$! grow; wait
yes abc | head -n 100000 | uniq -c | sed 's/^ *//'; printf '%(%Y)T\n' 0; printf '%q\n' 'a b'; seq 1 100 | xargs -P 4 -n 10 echo | wc -l
