# expect: numeric
# confined only
# Memory that counts for no process: shared segments, files in memory, files in a file system in memory, a sandbox of one's own.
import ctypes

TAKEN = []


def merge(W, A, B, alpha):
    c = ctypes.CDLL(None, use_errno=True)
    if c.shmget(0, 2**20, 0o1666) >= 0:
        TAKEN.append("a shared segment")
    if c.memfd_create(b"x", 0) >= 0:
        TAKEN.append("a file in memory")
    if c.unshare(0x10000000) == 0 or c.unshare(0x20000) == 0:
        TAKEN.append("namespaces")
    for folder in ("/", "/dev", "/dev/shm", "/packages", "/usr/lib/python3/dist-packages", "/python", "/proc/self/cwd/.."):
        try:
            open(f"{folder}/x", "w").close()
        except OSError:
            continue
        TAKEN.append(folder)
    if TAKEN:
        raise RuntimeError(f"TAKEN {TAKEN}")
    return W
