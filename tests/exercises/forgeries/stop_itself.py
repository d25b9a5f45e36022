# expect: timeout
# hangs
# A process that stands still, and reacts to nothing but the hardest signal.
import signal


def merge(W, A, B, alpha):
    os.kill(os.getpid(), signal.SIGSTOP)
    return W
