# expect: crash
# A message that is none, one that is never ended, one that is too long.
import struct

SENT = [b"not a message at all", struct.pack("<I", 2**31) + b"x", struct.pack("<I", 8) + bytes(8)]


def merge(W, A, B, alpha):
    border()["replies"].write(SENT[alpha.as_integer_ratio()[0] % len(SENT)])
    border()["replies"].flush()
    os._exit(0)


def unmerge(W, A, B, alpha):
    border()["replies"].write(SENT[2])
    return W
