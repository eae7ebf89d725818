#: group = "F"
#: summary = "ctypes: libc and libm calls, callbacks, structures, errno, mmap of code; dlopen and dlsym"
#: with = ["/usr/bin/python3"]
import ctypes, ctypes.util, mmap, os, struct

libc, libm = ctypes.CDLL('libc.so.6', use_errno=True), ctypes.CDLL('libm.so.6')
libm.pow.restype, libm.pow.argtypes = ctypes.c_double, (ctypes.c_double, ctypes.c_double); print(libm.pow(2.0, 0.5), libc.strlen(b'hello'), libc.abs(-5), libc.getpid() == os.getpid())
print(libc.open(b'/no/such', 0), os.strerror(ctypes.get_errno()))
compare = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_int), ctypes.POINTER(ctypes.c_int))
array = (ctypes.c_int * 8)(5, 3, 9, 1, 7, 2, 8, 4); libc.qsort(array, 8, 4, compare(lambda a, b: a[0] - b[0])); print(list(array))
class Timeval(ctypes.Structure): _fields_ = [('sec', ctypes.c_long), ('usec', ctypes.c_long)]
tv = Timeval(); print(libc.gettimeofday(ctypes.byref(tv), None), tv.sec > 1700000000, ctypes.sizeof(Timeval))
class U(ctypes.Union): _fields_ = [('f', ctypes.c_float), ('i', ctypes.c_uint32)]
u = U(); u.f = 1.0; print(hex(u.i))
buf = ctypes.create_string_buffer(100); print(libc.snprintf(buf, 100, b'%d %s %.2f', 42, b'text', ctypes.c_double(3.14159)), buf.value)
libc.malloc.restype = ctypes.c_void_p; p = libc.malloc(1000); ctypes.memset(p, 65, 10); print(ctypes.string_at(p, 10)); libc.free(ctypes.c_void_p(p))
code = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC); code.write(bytes.fromhex('8d047f c3')); triple = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(code))); print(triple(14))
lib = ctypes.CDLL('/conformance/elf/plugin.so'); print(lib.plugin_add(2, 3), ctypes.c_int.in_dll(lib, 'plugin_loaded').value, ctypes.cast(lib.plugin_name, ctypes.CFUNCTYPE(ctypes.c_char_p))())
try: ctypes.CDLL('/etc/passwd')
except OSError as e: print(str(e).split(':')[-1].strip())
try: lib.no_such_symbol
except AttributeError as e: print('AttributeError')
print(struct.calcsize('P'), ctypes.pythonapi.Py_IsInitialized(), ctypes.c_int.in_dll(ctypes.pythonapi, 'Py_OptimizeFlag').value)
