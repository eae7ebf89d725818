#: group = "B"
#: summary = "subprocess with pipes, input, errors, time-outs, environment, shell; os.fork, exec, wait, popen, system"
#: with = ["/usr/bin/python3"]
import os, signal, subprocess, sys, time

print(subprocess.run(['echo', 'hello'], capture_output=True, text=True).stdout, end='')
print(subprocess.run(['sh', '-c', 'echo out; echo err >&2; exit 3'], capture_output=True))
print(subprocess.check_output('echo $((6 * 7)) | tr 2 x', shell=True))
p = subprocess.Popen(['sort', '-r'], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True); print(p.communicate('a\nc\nb\n')[0].split())
big = os.urandom(3 << 20); print(subprocess.run(['cat'], input=big, stdout=subprocess.PIPE).stdout == big)
a = subprocess.Popen(['seq', '1', '100000'], stdout=subprocess.PIPE); b = subprocess.Popen(['tail', '-n', '1'], stdin=a.stdout, stdout=subprocess.PIPE); a.stdout.close(); print(b.communicate()[0], a.wait())
try: subprocess.run(['no-such-program'])
except FileNotFoundError as e: print('FileNotFoundError', e.filename)
try: subprocess.run(['/etc/passwd'])
except PermissionError as e: print('PermissionError', e.filename)
try: subprocess.run(['sleep', '30'], timeout=0.2)
except subprocess.TimeoutExpired as e: print('TimeoutExpired', round(e.timeout, 1))
try: subprocess.run(['false'], check=True)
except subprocess.CalledProcessError as e: print('CalledProcessError', e.returncode)
print(subprocess.run(['env'], env={'ONLY': 'this'}, capture_output=True, text=True).stdout, subprocess.run(['pwd'], cwd='/usr', capture_output=True, text=True).stdout, end='')
print(subprocess.run(['sh', '-c', 'kill -9 $$']).returncode, subprocess.run(['sh', '-c', 'echo to nowhere'], stdout=subprocess.DEVNULL).returncode)
r, w = os.pipe(); print(subprocess.run(['sh', '-c', f'echo passed >&{w}'], pass_fds=[w]).returncode, os.read(r, 100)); print(subprocess.run(['sh', '-c', f'echo x >&{w}'], stderr=subprocess.DEVNULL).returncode != 0)
print(subprocess.run(['sh', '-c', 'ps >/dev/null 2>&1; echo $$'], start_new_session=True, capture_output=True).returncode, subprocess.run([sys.executable, '-c', 'import os; print(os.getsid(0) == os.getpid())'], start_new_session=True, capture_output=True, text=True).stdout, end='')
print(subprocess.run([sys.executable, '-c', 'import os; print(os.getuid(), os.getgid(), os.umask(0))'], user=1000, group=1000, umask=0o27, capture_output=True, text=True).stdout, end='')
print(subprocess.run(['sh', '-c', 'trap "" PIPE; exit 0'], preexec_fn=lambda: os.nice(1)).returncode, os.system('exit 5') >> 8, os.popen('echo popen').read(), end='')

pid = os.fork()
if pid == 0: os._exit(23)
print('fork', os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
pid = os.fork()
if pid == 0: os.execvp('sh', ['sh', '-c', 'exit 9'])
print('exec', os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
pid = os.fork()
if pid == 0: signal.pause()
os.kill(pid, signal.SIGTERM); print('killed', os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
print('spawn', os.spawnvp(os.P_WAIT, 'sh', ['sh', '-c', 'exit 4']), os.waitstatus_to_exitcode(os.waitpid(os.posix_spawn('/bin/sh', ['sh', '-c', 'exit 6'], os.environ), 0)[1]))
try: os.waitpid(pid, 0)
except ChildProcessError: print('ChildProcessError')
r, w = os.pipe(); sys.stdout.flush(); pids = []
for i in range(20):
    if (pid := os.fork()) == 0:
        os.write(w, bytes([65 + i])); os._exit(0)
    pids.append(pid)
os.close(w); data = b''
while chunk := os.read(r, 100): data += chunk
print('twenty children', bytes(sorted(data)), sum(os.waitpid(pid, 0)[1] for pid in pids))
p = subprocess.Popen(['cat'], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
for i in range(100):
    p.stdin.write(b'ping %d\n' % i); assert p.stdout.readline() == b'ping %d\n' % i
p.stdin.close(); print('ping pong', p.wait(timeout=20))
