# expect: timeout
# hangs
# A call that never returns.
def merge(W, A, B, alpha):
    while True:
        pass


unmerge = lora_backward = merge
