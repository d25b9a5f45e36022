# expect: numeric
# confined only
# Whatever can be deleted is.
import shutil

for place in ("CANARY", "CHECKOUT", "/submission.py", "/worker.py", "/packages", os.getcwd()):
    shutil.rmtree(place, ignore_errors=True)
    try:
        os.remove(place)
    except OSError:
        continue
