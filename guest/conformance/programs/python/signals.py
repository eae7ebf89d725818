#: group = "B"
#: summary = "SIGALRM, handlers, KeyboardInterrupt, setitimer, sigwait, pthread_sigmask, wakeup fd, faulthandler"
#: with = ["/usr/bin/python3"]
import faulthandler, os, select, signal, subprocess, sys, time

class Alarm(Exception): pass
def on_alarm(number, frame):
    raise Alarm(signal.Signals(number).name)
signal.signal(signal.SIGALRM, on_alarm)
signal.alarm(1)
try:
    time.sleep(30); print('slept')
except Alarm as e:
    print('caught', e)
signal.setitimer(signal.ITIMER_REAL, 0.05)
try:
    n = 0
    while True: n += 1
except Alarm as e:
    print('in a loop', e)
ticks = []
signal.signal(signal.SIGALRM, lambda n, f: ticks.append(n))
signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)
start = time.monotonic(); time.sleep(0.2); slept = time.monotonic() - start
signal.setitimer(signal.ITIMER_REAL, 0)
print('sleep goes on after a handler', slept >= 0.2, len(ticks) > 0)
try:
    signal.raise_signal(signal.SIGINT)
except KeyboardInterrupt:
    print('KeyboardInterrupt')
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
os.kill(os.getpid(), signal.SIGUSR1); print(sorted(s.name for s in signal.sigpending()), signal.sigwait([signal.SIGUSR1]).name)
print(signal.sigtimedwait([signal.SIGUSR1], 0.01), signal.getsignal(signal.SIGUSR2) == signal.SIG_DFL, signal.getsignal(signal.SIGPIPE) == signal.SIG_IGN)
r, w = os.pipe(); os.set_blocking(w, False); signal.set_wakeup_fd(w); signal.signal(signal.SIGUSR2, lambda n, f: None)
os.kill(os.getpid(), signal.SIGUSR2); print(select.select([r], [], [], 1)[0] == [r], os.read(r, 1) == bytes([signal.SIGUSR2]))
p = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(30)'])
time.sleep(0.2); p.terminate(); print('child', p.wait(), signal.Signals(-p.returncode).name)
p = subprocess.Popen([sys.executable, '-c', '''
import os, signal, sys, time
def bye(n, f): os.write(1, b'bye'); sys.exit(5)
signal.signal(signal.SIGTERM, bye); os.write(1, b'ready\\n'); time.sleep(30)'''], stdout=subprocess.PIPE, text=True)
print(p.stdout.readline().strip()); p.send_signal(signal.SIGTERM); print(p.communicate(timeout=20)[0].strip(), p.returncode)
p = subprocess.run([sys.executable, '-X', 'faulthandler', '-c', 'import ctypes; ctypes.string_at(0)'], capture_output=True, text=True)
print(p.returncode, p.stderr.splitlines()[0])
p = subprocess.run([sys.executable, '-c', 'import os; os.abort()'], capture_output=True); print(p.returncode)
