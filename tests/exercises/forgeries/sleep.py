# expect: timeout
# hangs
# A call that waits, and that no error from outside wakes.
import signal
import time


def merge(W, A, B, alpha):
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGALRM):
        signal.signal(number, signal.SIG_IGN)
    while True:
        time.sleep(1000)


unmerge = merge
