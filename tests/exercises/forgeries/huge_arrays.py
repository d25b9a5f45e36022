# expect: unusable shape error
# Results far larger than memory, in truth and in pretence.
def merge(W, A, B, alpha):
    return np.broadcast_to(np.float64(1), (10**6, 10**6))


def unmerge(W, A, B, alpha):
    return np.zeros((400, 400))


def rslora_scaling(alpha, r):
    return np.ones(2**40)
