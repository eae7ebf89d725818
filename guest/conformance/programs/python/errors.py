#: group = "B"
#: summary = "tracebacks on standard error: chained, in threads, at exit, from warnings; status 1"
#: with = ["/usr/bin/python3"]
#: status = 1
import atexit, sys, threading, traceback, warnings

def thrower(n):
    if n == 0: raise ValueError('at the bottom')
    thrower(n - 1)
try:
    thrower(3)
except ValueError:
    traceback.print_exc()
try:
    try: {}['missing']
    except KeyError as e: raise RuntimeError('while handling') from e
except RuntimeError:
    traceback.print_exc()
t = threading.Thread(target=thrower, args=(1,), name='worker'); t.start(); t.join()
warnings.warn('a warning'); print('standard error again', file=sys.stderr)
try: raise ExceptionGroup('group', [ValueError(1), TypeError(2)])
except* ValueError as g: print('group', g.exceptions)
except* TypeError: print('type')
@atexit.register
def last(): print('at exit'); sys.stdout.flush()
sys.stdout.write('not yet flushed ')
print(eval('1 +' + ' 1'))
assert False, 'the end'
