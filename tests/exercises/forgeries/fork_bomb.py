# expect: error
# confined only
# Processes that make processes.
def merge(W, A, B, alpha):
    while True:
        os.fork()
