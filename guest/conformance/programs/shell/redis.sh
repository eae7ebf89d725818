#: group = "F"
#: summary = "redis-server: commands, persistence in a forked child, redis-benchmark, shutdown"
#: with = ["/bin/bash"]
#: needs = ["/usr/bin/redis-server"]
#: timeout = 120
cd /tmp; mkdir redis; cd redis
redis-server --port 6379 --save '' --dir /tmp/redis --daemonize no --logfile log & server=$!
for i in $(seq 100); do redis-cli ping >/dev/null 2>&1 && break; sleep 0.1; done
r() { redis-cli "$@"; }
r ping; r set key value; r get key; r incr n; r incrby n 41; r lpush l a b c; r lrange l 0 -1; r hset h f v; r hgetall h; r zadd z 2 two 1 one; r zrange z 0 -1; r expire key 100; r ttl key; r type z
seq 1 20000 | sed 's/.*/SET k& v&/' | redis-cli --pipe | grep -e errors; r dbsize; r get k19999
r eval 'return redis.call("get", KEYS[1])' 1 k5; r bgsave; sleep 1; while [ "$(r info persistence | grep -c rdb_bgsave_in_progress:1)" = 1 ]; do sleep 0.1; done; [ -s dump.rdb ] && echo saved; r info persistence | grep rdb_last_bgsave_status | tr -d '\r'
redis-benchmark -q -n 2000 -c 20 -t set,get,lpush 2>&1 | tr '\r' '\n' | grep -c 'requests per second'
r subscribe c >sub & sleep 0.3; r publish c message; sleep 0.2; kill %2; head -n 6 sub
r shutdown nosave; wait $server; echo "server $?"
redis-server --port 6379 --save '' --dir /tmp/redis --logfile log2 & server=$!
for i in $(seq 100); do redis-cli ping >/dev/null 2>&1 && break; sleep 0.1; done; r get k777; kill -TERM $server; wait $server; echo "server $?"
