# expect: error numeric
# confined only
# A thread that outlives its call, and changes the functions and answers while others are being asked.
import threading
import time


def meddle(line):
    while True:
        time.sleep(0.001)
        globals()["rslora_scaling"] = lambda alpha, r: alpha / r
        line["replies"].write(b"")


def merge(W, A, B, alpha):
    threading.Thread(target=meddle, args=(border(),), daemon=False).start()
    return W
