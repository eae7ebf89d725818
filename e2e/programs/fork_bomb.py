"""Every process forks for ever. Each tells the first error that it gets."""
import errno
import os

told = False
while True:
    try:
        if os.fork() == 0:
            told = False
    except OSError as error:
        if not told:
            os.write(1, b"limit: fork %s\n" % errno.errorcode[error.errno].encode())
            told = True
