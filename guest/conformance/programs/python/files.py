#: group = "B"
#: summary = "read, write, list, stat, copy and remove files and trees; tempfile, shutil, glob, pathlib"
#: with = ["/usr/bin/python3"]
import errno, filecmp, fnmatch, glob, io, mmap, os, pathlib, shutil, stat, tempfile

os.chdir(tempfile.mkdtemp(prefix='conf'))
with open('text', 'w', encoding='utf-8') as f:
    print(f.write('línea uno\nline two\n'), f.tell(), f.fileno() > 2)
print(open('text', encoding='utf-8').read(), os.path.getsize('text'))
with open('binary', 'wb') as f:
    f.write(bytes(range(256)) * 1000)
with open('binary', 'r+b') as f:
    f.seek(100); f.write(b'patched'); f.seek(-10, io.SEEK_END); print(f.read(), f.tell()); f.truncate(5000)
print(os.path.getsize('binary'), open('binary', 'rb').read()[98:110])
with open('binary', 'rb') as f, mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ) as m:
    print(len(m), m[100:107], m.find(b'patched'))
os.makedirs('a/b/c'); pathlib.Path('a/one.txt').write_text('1'); pathlib.Path('a/b/two.txt').write_text('22')
os.symlink('one.txt', 'a/link'); os.link('a/one.txt', 'a/hard')
for root, dirs, files in sorted(os.walk('.')):
    print(root, sorted(dirs), sorted(files))
print(sorted((e.name, e.is_file(), e.is_dir(), e.is_symlink()) for e in os.scandir('a')))
print(sorted(glob.glob('**/*.txt', recursive=True)), sorted(map(str, pathlib.Path('a').rglob('*'))))
s = os.stat('a/one.txt'); print(stat.filemode(s.st_mode), s.st_nlink, s.st_size, s.st_uid)
os.chmod('a/one.txt', 0o604); os.utime('a/one.txt', (1000, 2000)); s = os.stat('a/one.txt'); print(oct(s.st_mode), s.st_mtime, s.st_atime)
shutil.copytree('a', 'copy', symlinks=True); print(sorted(os.listdir('copy')), os.readlink('copy/link'), filecmp.cmp('a/one.txt', 'copy/one.txt'))
shutil.move('copy', 'moved'); print(os.path.exists('copy'), os.path.isdir('moved')); shutil.rmtree('moved'); print(os.path.exists('moved'))
os.rename('text', 'renamed'); os.replace('renamed', 'binary'); print(sorted(os.listdir('.')))
for call, args in ((open, ('missing',)), (os.mkdir, ('a',)), (os.rmdir, ('a',)), (os.listdir, ('binary',)), (open, ('a', 'w')), (os.unlink, ('a',)), (os.readlink, ('binary',)), (os.chdir, ('none',))):
    try:
        call(*args); print('no error')
    except OSError as e:
        print(type(e).__name__, errno.errorcode[e.errno], e.filename)
with tempfile.TemporaryDirectory() as d, tempfile.NamedTemporaryFile(dir=d) as f, tempfile.TemporaryFile() as g, tempfile.SpooledTemporaryFile() as h:
    f.write(b'x'); g.write(b'yy'); h.write(b'zzz'); print(os.path.dirname(f.name) == d, g.tell(), h.tell(), len(os.listdir(d)))
print(os.path.exists(d), shutil.which('sh') is not None, shutil.disk_usage('/').total > 0, os.access('/etc/passwd', os.R_OK))
archive = shutil.make_archive('out', 'gztar', 'a'); shutil.unpack_archive(archive, 'unpacked'); print(sorted(os.listdir('unpacked')))
fd = os.open('binary', os.O_RDWR); print(os.pread(fd, 5, 2), os.pwrite(fd, b'XX', 0), os.lseek(fd, 0, os.SEEK_END), os.fstat(fd).st_size); os.close(fd)
r, w = os.pipe(); os.write(w, b'through a pipe'); print(os.read(r, 100)); os.close(r); os.close(w)
for i in range(3000):
    open(f'many-{i}', 'x').close()
print(len(fnmatch.filter(os.listdir('.'), 'many-*'))); [os.unlink(p) for p in glob.glob('many-*')]; print(len(os.listdir('.')))
print(len(os.listdir('/usr/lib/python3.11')) > 100, os.path.realpath('/usr/bin/python3'), os.getcwd().startswith('/tmp/conf'))
