# expect: error
# confined only
# A disk that is filled.
def merge(W, A, B, alpha):
    for i in range(10**6):
        with open(f"/tmp/{i}", "wb") as file:
            file.write(bytes(2**20))
