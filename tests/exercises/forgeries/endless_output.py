# expect: timeout
# hangs
# Words without end.
def merge(W, A, B, alpha):
    while True:
        for number in (1, 2):
            try:
                os.write(number, b"all tests passed " * 4096)
            except OSError:
                pass
