# expect: crash
# Every open file is closed, the pipes among them.
def merge(W, A, B, alpha):
    os.closerange(0, 256)
    return W
