"""Settings before anything heavy is imported."""

import os

os.environ.update(HF_HUB_OFFLINE="1", MPLBACKEND="agg", TOKENIZERS_PARALLELISM="false")
os.environ["OMP_NUM_THREADS"] = "1"  # models here are so small that a second thread slows them down
