# expect: error|timeout
# confined only, hangs
# All memory there is.
def merge(W, A, B, alpha):
    only_in_the_sandbox()
    kept = []
    while True:
        kept.append(np.ones(2**25))
