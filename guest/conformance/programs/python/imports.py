#: group = "B"
#: summary = "imports every module of the standard library that is there, and says which are not"
#: with = ["/usr/bin/python3"]
#: timeout = 180
import importlib, os, sys, warnings

warnings.simplefilter('ignore')
skip = {'antigravity', 'this', 'idlelib', 'turtledemo', 'lib2to3', 'test', '__main__', 'tkinter', 'turtle'}
loaded, failed = 0, []
for name in sorted(sys.stdlib_module_names - skip):
    try:
        importlib.import_module(name); loaded += 1
    except ImportError as e:
        failed.append(name)
print(loaded, failed)
print(sum(1 for m in sys.modules.values() if getattr(m, '__file__', '') and m.__file__.endswith('.so')), sorted(m for m in sys.modules if m.startswith('_') and getattr(sys.modules[m], '__file__', '') and str(sys.modules[m].__file__).endswith('.so'))[:20])
os.makedirs('/tmp/pkg/sub'); open('/tmp/pkg/__init__.py', 'w').write('value = 42\n'); open('/tmp/pkg/sub/__init__.py', 'w').write('from .. import value\n'); open('/tmp/pkg/broken.py', 'w').write('def f(:\n')
sys.path.insert(0, '/tmp'); import pkg.sub; print(pkg.sub.value, pkg.__file__, os.path.exists('/tmp/pkg/__pycache__'))
try: import pkg.broken
except SyntaxError as e: print(e.msg, e.lineno, e.filename)
try: import pkg.nothing
except ModuleNotFoundError as e: print(e)
import zipfile
with zipfile.ZipFile('/tmp/z.zip', 'w') as z: z.writestr('inzip.py', 'name = __name__')
sys.path.insert(0, '/tmp/z.zip'); import inzip; print(inzip.name, inzip.__loader__.__class__.__name__)
