# expect: timeout
# hangs
# The beginning of an answer, and no more.
import struct
import time


def merge(W, A, B, alpha):
    border()["replies"].write(struct.pack("<I", 1000) + b"x")
    border()["replies"].flush()
    time.sleep(1000)
