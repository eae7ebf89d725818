"""Threads that wait for ever, as many as there can be, and then tries to start more without end."""
import ctypes
import errno
import os

libc = ctypes.CDLL(None)
thread = ctypes.c_ulong()
attributes = ctypes.create_string_buffer(64)
libc.pthread_attr_init(attributes)
libc.pthread_attr_setstacksize(attributes, ctypes.c_size_t(1 << 16))
pause = ctypes.cast(libc.pause, ctypes.c_void_p)
told = False
while True:
    error = libc.pthread_create(ctypes.byref(thread), attributes, pause, None)
    if error and not told:
        os.write(1, b"limit: pthread_create %s\n" % errno.errorcode[error].encode())
        told = True
