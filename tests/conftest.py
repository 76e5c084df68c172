"""What holds for all tests, on whatever machine and however they were started."""

import atexit
import getpass
import locale
import os
import shutil
import signal
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, settings

from trainer.git import OF_ANOTHER

# Of a terminal, a user's Snakemake, and the repository in whose hook the tests may run.
for name in (
    *OF_ANOTHER,
    "COLUMNS",
    "FORCE_COLOR",
    "PYTHON_COLORS",
    "PYTHONSAFEPATH",
    "SNAKEMAKE_PROFILE",
):
    os.environ.pop(name, None)
# Signed commits, hooks and the like.
os.environ["GIT_CONFIG_GLOBAL"] = os.devnull

# Every shell would warn that the locale is not installed, as after ssh from elsewhere.
before = locale.setlocale(locale.LC_ALL)
try:
    locale.setlocale(locale.LC_ALL, "")
except locale.Error:
    os.environ["LC_ALL"] = "C.UTF-8"
finally:
    locale.setlocale(locale.LC_ALL, before)

# Snakemake needs a name of its user, and a cache: some containers have neither.
try:
    getpass.getuser()
except (KeyError, OSError):
    os.environ["USER"] = str(os.getuid())
try:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    cache.mkdir(parents=True, exist_ok=True)
    has_cache = os.access(cache, os.W_OK)
except (OSError, RuntimeError):
    has_cache = False
if not has_cache:
    os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="cache-")
    atexit.register(shutil.rmtree, os.environ["XDG_CACHE_HOME"], ignore_errors=True)

# With matrices this small, BLAS threads only wait for each other. Read when numpy is loaded.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

# An example takes as long as the machine needs, and the checkout may be another user's.
settings.register_profile(
    "anywhere", deadline=None, suppress_health_check=[HealthCheck.too_slow], database=None
)
settings.load_profile("anywhere")

# A script's background jobs ignore Ctrl-C, and so would the programs that tests send it to.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
