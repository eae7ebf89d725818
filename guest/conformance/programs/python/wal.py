#: group = "F"
#: summary = "sqlite3 on the overlay with WAL: several processes read and write, locks, rollback, a killed writer"
#: needs = ["/usr/lib/x86_64-linux-gnu/libsqlite3.so.0"]
#: with = ["/usr/bin/python3"]
import os, signal, sqlite3, sys, tempfile, time

os.chdir(tempfile.mkdtemp())
def connect(): return sqlite3.connect('db', timeout=30, isolation_level=None)
db = connect(); print(db.execute('pragma journal_mode=wal').fetchone()); db.execute('create table t(k integer primary key, who, n)'); db.execute('create table total(n)'); db.execute('insert into total values(0)')
print(sorted(os.listdir('.')))
db.close(); sys.stdout.flush(); pids = []
for who in range(4):
    if (pid := os.fork()) == 0:
        own = connect()
        for n in range(100):
            own.execute('begin immediate'); own.execute('insert into t(who, n) values(?, ?)', (who, n)); own.execute('update total set n = n + 1'); own.execute('commit')
        own.close(); os._exit(0)
    pids.append(pid)
db = connect(); seen, torn = 0, 0
while seen < 400:
    db.execute('begin'); a, b = db.execute('select count(*) from t').fetchone()[0], db.execute('select n from total').fetchone()[0]; db.execute('commit'); torn += a != b; torn += a < seen; seen = a; time.sleep(0.002)
print([os.waitpid(p, 0)[1] for p in pids], seen, torn, db.execute('select who, count(*), sum(n) from t group by who order by who').fetchall())
print(db.execute('pragma wal_checkpoint(truncate)').fetchone(), db.execute('pragma integrity_check').fetchone())
r, w = os.pipe()
if (pid := os.fork()) == 0:
    own = connect(); own.execute('begin immediate'); own.execute('delete from t'); os.write(w, b'x'); time.sleep(100)
os.read(r, 1)
other = sqlite3.connect('db', timeout=0.1, isolation_level=None)
try: other.execute('begin immediate')
except sqlite3.OperationalError as e: print(e)
print('readers go on', other.execute('select count(*) from t').fetchone()); os.kill(pid, signal.SIGKILL); os.waitpid(pid, 0)
other.execute('begin immediate'); other.execute('update total set n = -1'); other.execute('rollback'); print('after the kill', other.execute('select count(*) from t').fetchone(), other.execute('select n from total').fetchone())
for mode in ('delete', 'truncate', 'persist', 'memory', 'off'): other.close() if mode == 'delete' else None; db.execute('pragma wal_checkpoint'); print(mode, db.execute(f'pragma journal_mode={mode}').fetchone(), db.execute('insert into t(who, n) values(9, 9)').rowcount)
db.execute('vacuum'); print(db.execute('select count(*) from t').fetchone(), db.execute('pragma integrity_check').fetchone()); db.close(); print(sorted(os.listdir('.')))
