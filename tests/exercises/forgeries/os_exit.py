# expect: crash
# The process ends, with the status of success.
def merge(W, A, B, alpha):
    os._exit(0)


unmerge = merge
