# expect: error
# confined only
# Processes that make processes.
def merge(W, A, B, alpha):
    only_in_the_sandbox()
    while True:
        os.fork()
