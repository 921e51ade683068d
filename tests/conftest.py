import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # one thread for each pytest-xdist worker
