# expect: numeric
# confined only
# A signal to every process there is, the first one and the parent among them.
import signal

for process in (1, os.getppid(), -1):
    for number in (signal.SIGSTOP, signal.SIGTERM, signal.SIGKILL):
        try:
            if os.getppid() == 1 or process != -1:
                os.kill(process, number)
        except OSError:
            continue
