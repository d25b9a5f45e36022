# expect: error|timeout
# confined only, hangs
# All memory there is.
def merge(W, A, B, alpha):
    kept = []
    while True:
        kept.append(np.ones(2**25))
