#: group = "B"
#: summary = "zipfile, tarfile, gzip, sqlite3 in memory and in a file, dbm, shelve"
#: needs = ["/usr/lib/x86_64-linux-gnu/libsqlite3.so.0"]
#: with = ["/usr/bin/python3"]
import dbm.dumb, gzip, io, os, shelve, sqlite3, tarfile, tempfile, zipfile

os.chdir(tempfile.mkdtemp())
with zipfile.ZipFile('a.zip', 'w', zipfile.ZIP_DEFLATED) as z:
    z.writestr('x/one', '1' * 10000); z.writestr('two', b'\0\1\2')
with zipfile.ZipFile('a.zip') as z:
    print(z.namelist(), z.read('two'), z.testzip(), z.getinfo('x/one').compress_size < 100); z.extractall('out')
print(os.path.getsize('out/x/one'))
for mode in ('gz', 'bz2', 'xz'):
    with tarfile.open('t', 'w:' + mode) as t:
        info = tarfile.TarInfo('dir/file'); info.size = 5; info.mtime = 1000; t.addfile(info, io.BytesIO(b'hello'))
    with tarfile.open('t') as t:
        print(mode, t.getnames(), t.extractfile('dir/file').read(), t.getmember('dir/file').mtime)
with gzip.open('g', 'wt') as g: g.write('line\n' * 1000)
print(sum(1 for _ in gzip.open('g', 'rt')))
for place in (':memory:', 'file.db'):
    db = sqlite3.connect(place)
    db.execute('create table t(id integer primary key, name text, value real)')
    with db: db.executemany('insert into t(name, value) values(?, ?)', ((f'n{i}', i * 0.5) for i in range(5000)))
    print(place, db.execute('select count(*), sum(value), max(name) from t').fetchone(), db.execute('select name from t where value between 10 and 11').fetchall())
    try:
        with db: db.execute('insert into t values(1, "twice", 0)')
    except sqlite3.IntegrityError as e: print(e)
    db.execute('create index i on t(name)'); print(db.execute('explain query plan select * from t where name = "n5"').fetchone()[3]); db.close()
print(sorted(os.listdir('.')), os.path.getsize('file.db') % 4096)
with shelve.Shelf(dbm.dumb.open('shelf')) as s: s['k'] = {'a': [1, 2]}
with shelve.Shelf(dbm.dumb.open('shelf')) as s: print(s['k'])
