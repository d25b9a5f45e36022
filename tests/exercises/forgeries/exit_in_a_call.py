# expect: error
# SystemExit and KeyboardInterrupt, which end a grader that catches only Exception.
def merge(W, A, B, alpha):
    sys.exit(0)


def unmerge(W, A, B, alpha):
    raise KeyboardInterrupt
